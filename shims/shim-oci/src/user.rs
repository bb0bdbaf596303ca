//! Who a container runs as: numbers, or names looked up in the container's own files.
//!
//! Invariant: a lookup never leaves the container's root filesystem, whatever symbolic links an image holds.
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use shim::Error;
use std::fs::File;
use std::io::Read;
use std::path::Path;

/// Longer user databases are not read to their end: no image has ten thousand users.
const MAX_DATABASE_BYTES: u64 = 1 << 20;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct User {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Groups that list the user as a member.
    pub(crate) groups: Vec<u32>,
}

/// Reads the databases of a root filesystem and looks the user up.
pub(crate) fn observe_user(rootfs: &Path, wanted: &str) -> Result<User, Error> {
    let passwd = read_inside(rootfs, "etc/passwd")?;
    let group = read_inside(rootfs, "etc/group")?;
    compute_user(wanted, &passwd, &group)
}

/// `uid`, `name`, `uid:gid`, `name:group` and their mixtures; nothing is root.
fn compute_user(wanted: &str, passwd: &str, group: &str) -> Result<User, Error> {
    let (who, of_group) = match wanted.split_once(':') {
        Some((who, group)) => (who, Some(group)),
        None => (wanted, None),
    };
    let who = if who.is_empty() { "0" } else { who };
    let entry = fields(passwd).find(|fields| {
        fields.first() == Some(&who) || (who.parse::<u32>().is_ok() && fields.get(2) == Some(&who))
    });
    let number = |field: Option<&&str>| field.and_then(|text| text.parse::<u32>().ok());
    let (name, uid, own_group) = match (&entry, who.parse::<u32>()) {
        (_, Ok(uid)) => {
            let entry = entry.as_ref().filter(|fields| number(fields.get(2)) == Some(uid));
            let name = entry.and_then(|fields| fields.first().copied());
            (name, uid, entry.and_then(|fields| number(fields.get(3))).unwrap_or(0))
        }
        (Some(fields), Err(_)) => match (number(fields.get(2)), number(fields.get(3))) {
            (Some(uid), Some(gid)) => (Some(who), uid, gid),
            _ => {
                return Err(Error::InvalidImage(format!(
                    "/etc/passwd of the image has no numbers for {who}"
                )));
            }
        },
        (None, Err(_)) => {
            return Err(Error::InvalidImage(format!(
                "the image has no user {who} in its /etc/passwd; use a number (securityContext.runAsUser)"
            )));
        }
    };
    let gid = match of_group {
        None => own_group,
        Some(text) => match text.parse() {
            Ok(gid) => gid,
            Err(_) => fields(group)
                .find(|fields| fields.first() == Some(&text))
                .and_then(|fields| number(fields.get(2)))
                .ok_or_else(|| {
                    Error::InvalidImage(format!(
                        "the image has no group {text} in its /etc/group; use a number"
                    ))
                })?,
        },
    };
    let member_of = |fields: &Vec<&str>| {
        name.is_some_and(|name| fields.get(3).is_some_and(|members| members.split(',').any(|m| m == name)))
    };
    // A group that was named stands alone, as with Docker.
    let groups = if of_group.is_some() {
        Vec::new()
    } else {
        fields(group).filter(member_of).filter_map(|fields| number(fields.get(2))).collect()
    };
    Ok(User { uid, gid, groups })
}

fn fields(database: &str) -> impl Iterator<Item = Vec<&str>> {
    database.lines().map(|line| line.trim().split(':').collect())
}

/// A file below a root that symbolic links cannot leave; an absent one is empty.
fn read_inside(root: &Path, path: &str) -> Result<String, Error> {
    let io = |source| Error::Io { what: format!("reading /{path} of the image"), source };
    let root = File::open(root).map_err(io)?;
    let how = OpenHow::new()
        // A pipe in place of the file must not make us wait.
        .flags(OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)
        .resolve(ResolveFlag::RESOLVE_IN_ROOT);
    let file = match openat2(&root, path, how) {
        Ok(file) => File::from(file),
        Err(nix::Error::ENOENT | nix::Error::ENOTDIR | nix::Error::ELOOP) => return Ok(String::new()),
        Err(errno) => return Err(io(errno.into())),
    };
    if !file.metadata().map_err(io)?.is_file() {
        return Ok(String::new());
    }
    let mut bytes = Vec::new();
    file.take(MAX_DATABASE_BYTES).read_to_end(&mut bytes).map_err(io)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0::/root:/bin/sh\nweb:x:33:34::/:/bin/false\n4444:x:1:2::/:/\n";
    const GROUP: &str = "root:x:0:\nlogs:x:50:web,other\nvideo:x:51:other\n";

    #[test]
    fn names_numbers_and_their_mixtures_are_found() {
        let user = |wanted: &str| compute_user(wanted, PASSWD, GROUP).unwrap();
        let is = |uid, gid, groups: &[u32]| User { uid, gid, groups: groups.to_vec() };
        assert_eq!(user(""), is(0, 0, &[]));
        assert_eq!(user("web"), is(33, 34, &[50]));
        assert_eq!(user("33"), is(33, 34, &[50]));
        assert_eq!(user("web:video"), is(33, 51, &[]));
        assert_eq!(user("1000:7"), is(1000, 7, &[]));
        assert_eq!(user("4444"), is(4444, 0, &[]));
    }

    #[test]
    fn who_is_not_there_is_named() {
        let error = |wanted: &str| compute_user(wanted, PASSWD, GROUP).unwrap_err().to_string();
        assert!(error("nobody").contains("no user nobody in its /etc/passwd"));
        assert!(error("web:nogroup").contains("no group nogroup in its /etc/group"));
    }

    #[test]
    fn a_symbolic_link_cannot_lead_a_lookup_out_of_the_image() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("root");
        std::fs::create_dir_all(root.join("etc")).unwrap();
        std::fs::write(dir.path().join("passwd"), "host:x:1:1::/:/").unwrap();
        for target in ["../../passwd", dir.path().join("passwd").to_str().unwrap()] {
            std::os::unix::fs::symlink(target, root.join("etc/passwd")).unwrap();
            assert!(observe_user(&root, "host").is_err(), "{target}");
            std::fs::remove_file(root.join("etc/passwd")).unwrap();
        }
        std::fs::write(root.join("users"), "inside:x:9:9::/:/").unwrap();
        std::os::unix::fs::symlink("/users", root.join("etc/passwd")).unwrap();
        assert_eq!(observe_user(&root, "inside").unwrap().uid, 9);
    }
}
