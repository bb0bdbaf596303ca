//! Acting as someone else (`kubectl --as`): the caller must be allowed to, then the request is that user's in all that
//! follows.
use crate::authentication::{ANONYMOUS, UNAUTHENTICATED, UserInfo};
use crate::authorization::{Attributes, authorize, forbidden};
use http::HeaderMap;
use machinery::status::Status;
use std::sync::Arc;

const USER: &str = "impersonate-user";
const GROUP: &str = "impersonate-group";
const UID: &str = "impersonate-uid";
const EXTRA: &str = "impersonate-extra-";
/// Users that stand for service accounts are called so: `system:serviceaccount:<namespace>:<name>`.
const SERVICE_ACCOUNT: &str = "system:serviceaccount:";

/// The user whose rights count: `user`, or whom `user` asks to act as.
///
/// Errors: 403 if `user` may not act as that user or with one of those groups; 400 if a header is no text, or groups are
/// given without a user.
pub(crate) fn impersonate(user: Arc<UserInfo>, headers: &HeaderMap) -> Result<Arc<UserInfo>, Status> {
    // Hardly any request asks; those pay for a look at their headers' names.
    if !headers.keys().any(|k| k.as_str().starts_with("impersonate-")) {
        return Ok(user);
    }
    let texts = |name: &str| -> Result<Vec<&str>, Status> {
        let text = |v: &http::HeaderValue| v.to_str().is_ok().then_some(());
        let all = headers.get_all(name);
        if all.iter().any(|v| text(v).is_none()) {
            return Err(Status::bad_request(format!("the header {name} is not text")));
        }
        Ok(all.iter().filter_map(|v| v.to_str().ok()).filter(|v| !v.is_empty()).collect())
    };
    let (name, groups, uid) = (texts(USER)?.first().copied(), texts(GROUP)?, texts(UID)?.first().copied());
    let Some(name) = name else {
        return Err(Status::bad_request(
            "requested groups, a uid or extra values without impersonating a user: set Impersonate-User (kubectl --as)",
        ));
    };
    match name.strip_prefix(SERVICE_ACCOUNT).and_then(|rest| rest.split_once(':')) {
        Some((namespace, account)) => may(&user, "", "serviceaccounts", namespace, account)?,
        None => may(&user, "", "users", "", name)?,
    }
    for group in &groups {
        may(&user, "", "groups", "", group)?;
    }
    if let Some(uid) = uid {
        may(&user, "authentication.k8s.io", "uids", "", uid)?;
    }
    for key in headers.keys().filter_map(|k| k.as_str().strip_prefix(EXTRA)) {
        may(&user, "authentication.k8s.io", "userextras", "", key)?;
    }
    Ok(Arc::new(acting_as(name, &groups, uid)))
}

fn may(user: &UserInfo, group: &str, resource: &str, namespace: &str, name: &str) -> Result<(), Status> {
    let attributes =
        Attributes::Resource { verb: "impersonate", group, resource, subresource: "", namespace, name };
    if authorize(user, &attributes) { Ok(()) } else { Err(forbidden(user, &attributes)) }
}

fn acting_as(name: &str, groups: &[&str], uid: Option<&str>) -> UserInfo {
    let mut all: Vec<String> = groups.iter().map(|g| (*g).to_owned()).collect();
    let account = name.strip_prefix(SERVICE_ACCOUNT).and_then(|rest| rest.split_once(':'));
    if let (Some((namespace, _)), true) = (account, groups.is_empty()) {
        all.push("system:serviceaccounts".to_owned());
        all.push(format!("system:serviceaccounts:{namespace}"));
    }
    let mut user = if name == ANONYMOUS {
        if !all.iter().any(|g| g == UNAUTHENTICATED) {
            all.push(UNAUTHENTICATED.to_owned());
        }
        UserInfo { name: name.to_owned(), uid: String::new(), groups: all }
    } else {
        UserInfo::new(name, all)
    };
    user.uid = uid.unwrap_or_default().to_owned();
    user
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(user: UserInfo, headers: &[(&'static str, &str)]) -> Result<UserInfo, Status> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, value.parse().unwrap());
        }
        impersonate(Arc::new(user), &map).map(|u| (*u).clone())
    }

    #[test]
    fn whoever_may_do_everything_may_act_as_anyone() {
        let jane =
            ask(UserInfo::admin(), &[(USER, "jane"), (GROUP, "dev"), (GROUP, "ops"), (UID, "7")]).unwrap();
        assert_eq!((jane.name.as_str(), jane.uid.as_str()), ("jane", "7"));
        assert_eq!(jane.groups, ["dev", "ops", "system:authenticated"]);
        let account = ask(UserInfo::admin(), &[(USER, "system:serviceaccount:shop:web")]).unwrap();
        let groups = ["system:serviceaccounts", "system:serviceaccounts:shop", "system:authenticated"];
        assert_eq!(account.groups, groups);
        assert_eq!(ask(UserInfo::admin(), &[(USER, ANONYMOUS)]).unwrap(), UserInfo::anonymous());
        assert_eq!(ask(UserInfo::admin(), &[]).unwrap(), UserInfo::admin());
    }

    #[test]
    fn others_may_not_and_half_a_request_is_refused() {
        let jane = UserInfo::new("jane", ["dev"]);
        let refused = ask(jane, &[(USER, "kubernetes-admin"), (GROUP, "system:masters")]).unwrap_err();
        assert_eq!(
            (refused.code, refused.message.as_str()),
            (
                403,
                "users \"kubernetes-admin\" is forbidden: User \"jane\" cannot impersonate resource \"users\" in API \
                 group \"\" at the cluster scope"
            )
        );
        assert_eq!(ask(UserInfo::admin(), &[(GROUP, "system:masters")]).unwrap_err().code, 400);
    }
}
