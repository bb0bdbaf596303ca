//! What is known of a sandbox or container after a crash: one small JSON file each, replaced as a whole.
use pod_network::Attachment;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::{self, File, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// A sandbox. Times are nanoseconds since 1970, as CRI has them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SandboxRecord {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) uid: String,
    pub(crate) namespace: String,
    pub(crate) attempt: u32,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) annotations: BTreeMap<String, String>,
    pub(crate) handler: String,
    pub(crate) hostname: String,
    pub(crate) log_directory: String,
    pub(crate) cgroup_parent: String,
    pub(crate) created_at: i64,
    pub(crate) ready: bool,
    pub(crate) host_network: bool,
    /// `None` once it is stopped.
    pub(crate) attachment: Option<Attachment>,
}

/// A container. The environment is left out: it may hold secrets, and nothing needs it again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ContainerRecord {
    pub(crate) id: String,
    pub(crate) sandbox: String,
    pub(crate) name: String,
    pub(crate) attempt: u32,
    /// As it was asked for.
    pub(crate) image: String,
    /// A name by digest, or the id.
    pub(crate) image_ref: String,
    pub(crate) image_id: String,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) annotations: BTreeMap<String, String>,
    pub(crate) mounts: Vec<MountRecord>,
    pub(crate) log_path: String,
    /// The handler of the shim that runs it.
    pub(crate) shim: String,
    pub(crate) stop_signal: i32,
    pub(crate) created_at: i64,
    /// 0 until it is started.
    pub(crate) started_at: i64,
    pub(crate) exit: Option<ExitRecord>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct MountRecord {
    pub(crate) container_path: String,
    pub(crate) host_path: String,
    pub(crate) readonly: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ExitRecord {
    pub(crate) code: i32,
    pub(crate) reason: String,
    pub(crate) message: String,
    pub(crate) finished_at: i64,
}

/// How much a record must survive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Survive {
    /// The end of this process. After a power cut nothing runs any more, so what it was matters little.
    Process,
    /// A power cut: how a container ended, which a Job's fate may hang on.
    PowerCut,
}

/// Records of one kind: `<directory>/<id>/record.json`.
#[derive(Clone, Debug)]
pub(crate) struct Records {
    directory: PathBuf,
}

impl Records {
    pub(crate) fn open(directory: PathBuf) -> io::Result<Self> {
        fs::create_dir_all(&directory)?;
        // Records hold environments, and those hold passwords; the root directory may be one that others can enter.
        fs::set_permissions(&directory, Permissions::from_mode(0o700))?;
        Ok(Self { directory })
    }

    /// The directory of one sandbox or container.
    pub(crate) fn directory(&self, id: &str) -> PathBuf {
        self.directory.join(id)
    }

    pub(crate) fn save(&self, id: &str, record: &impl Serialize, survive: Survive) -> io::Result<()> {
        let directory = self.directory(id);
        fs::create_dir_all(&directory)?;
        let (path, new) = (directory.join("record.json"), directory.join("record.json.new"));
        let mut file = File::create(&new)?;
        file.write_all(&serde_json::to_vec(record)?)?;
        if survive == Survive::PowerCut {
            file.sync_all()?;
        }
        fs::rename(new, path)?;
        if survive == Survive::PowerCut {
            // The name, too.
            File::open(directory)?.sync_all()?;
        }
        Ok(())
    }

    /// Removes a record with everything beside it.
    pub(crate) fn remove(&self, id: &str) -> io::Result<()> {
        match fs::remove_dir_all(self.directory(id)) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
            _ => Ok(()),
        }
    }

    /// Reads all records. What cannot be read is told by id: its making was cut off, or the disk lost it.
    pub(crate) fn load<T: DeserializeOwned>(&self) -> io::Result<(Vec<T>, Vec<String>)> {
        let (mut records, mut broken) = (Vec::new(), Vec::new());
        for entry in fs::read_dir(&self.directory)? {
            let entry = entry?;
            match read(&entry.path().join("record.json")) {
                Ok(record) => records.push(record),
                Err(error) => {
                    tracing::warn!(path = %entry.path().display(), %error, "dropping a record that cannot be read");
                    broken.push(entry.file_name().to_string_lossy().into_owned());
                }
            }
        }
        Ok((records, broken))
    }
}

fn read<T: DeserializeOwned>(path: &Path) -> io::Result<T> {
    Ok(serde_json::from_slice(&fs::read(path)?)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_come_back_and_half_written_ones_are_told() {
        let directory = tempfile::tempdir().unwrap();
        let records = Records::open(directory.path().join("c")).unwrap();
        let mode = fs::metadata(directory.path().join("c")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700, "others can read what containers are given");
        let exit = ExitRecord { code: 3, reason: "Error".into(), message: "m".into(), finished_at: 7 };
        records.save("a", &exit, Survive::PowerCut).unwrap();
        records.save("b", &exit, Survive::Process).unwrap();
        fs::write(records.directory("b").join("record.json"), "{\"code\":").unwrap();
        fs::create_dir(records.directory("c")).unwrap();
        let (loaded, mut broken) = records.load::<ExitRecord>().unwrap();
        broken.sort();
        assert_eq!((loaded, broken), (vec![exit], vec!["b".to_string(), "c".to_string()]));
        records.remove("a").unwrap();
        records.remove("a").unwrap();
        assert!(!records.directory("a").exists());
    }
}
