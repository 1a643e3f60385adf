//! Profiles of the AWS tools: the files `~/.aws/credentials` and `~/.aws/config`, as far as they
//! hold keys, a region and an endpoint. What else a profile can say (roles, single sign-on, a
//! program that is asked) is refused by name: going on without would ask a cloud's metadata
//! address, and write with other rights than the ones that were meant.

use crate::config::Flaw;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

const KEY: &str = "aws_access_key_id";
const SECRET: &str = "aws_secret_access_key";
/// What a profile says where its credentials come from elsewhere.
const ELSEWHERE: [&str; 8] = [
    "role_arn",
    "source_profile",
    "credential_source",
    "credential_process",
    "sso_session",
    "sso_start_url",
    "web_identity_token_file",
    "login_session",
];

/// Keys and values of one section.
type Section = BTreeMap<String, String>;

/// The options that a profile adds to `given`, which are the environment's and the configured ones
/// by name, with or without `aws_`. `variable` tells the environment's variables.
///
/// # Errors
/// A [`Flaw`] if the profile that `AWS_PROFILE` names is not there, or says what we cannot do.
pub(super) fn options(
    given: &[&str],
    variable: impl Fn(&str) -> Option<String>,
) -> Result<Vec<(String, String)>, Flaw> {
    let has = |names: &[&str]| {
        let bare = |name: &&str| names.contains(&name.strip_prefix("aws_").unwrap_or(name));
        given.iter().any(bare)
    };
    let named = ["AWS_PROFILE", "AWS_DEFAULT_PROFILE"]
        .into_iter()
        .find_map(|name| Some((name, variable(name)?)));
    let profile = named.as_ref().map_or("default", |(_, profile)| profile);
    let file = |name: &str, default: &str| match variable(name) {
        Some(path) => Some(PathBuf::from(path)),
        None => Some(Path::new(&variable("HOME")?).join(".aws").join(default)),
    };
    let files = [
        (file("AWS_CONFIG_FILE", "config"), Some("profile ")),
        (file("AWS_SHARED_CREDENTIALS_FILE", "credentials"), None),
    ];
    let mut found = None;
    for (path, prefix) in &files {
        if let Some(path) = path
            && let Some(text) = text_of(path, named.is_some())?
            && let Some(section) = section_of(&text, profile, *prefix)
        {
            found.get_or_insert_with(Section::new).extend(section);
        }
    }
    let Some(section) = found else {
        let Some((name, profile)) = named else {
            return Ok(Vec::new());
        };
        let looked = files.iter().filter_map(|(path, _)| path.as_ref());
        let looked: Vec<_> = looked.map(|path| path.display().to_string()).collect();
        let reason = format!(
            "names the profile `{profile}`, which is not there (looked in: {})",
            looked.join(", ")
        );
        return Err(Flaw::new(name, reason));
    };
    let mut options = Vec::new();
    if !has(&["access_key_id", "skip_signature", "web_identity_token_file"]) {
        options = credentials(profile, &section)?;
        if !options.is_empty() {
            tracing::info!(
                profile,
                "credentials for S3 are those of a profile of the AWS tools"
            );
        }
    }
    if let Some(region) = section.get("region")
        && !has(&["region", "default_region"])
    {
        options.push(("aws_region".to_owned(), region.clone()));
    }
    if let Some(endpoint) = section.get("endpoint_url")
        && !has(&["endpoint", "endpoint_url", "endpoint_url_s3"])
    {
        options.push(("aws_endpoint".to_owned(), endpoint.clone()));
    }
    Ok(options)
}

fn credentials(profile: &str, section: &Section) -> Result<Vec<(String, String)>, Flaw> {
    let refuse = |reason: String| Err(Flaw::new(format!("profile {profile}"), reason));
    match (section.get(KEY), section.get(SECRET)) {
        (Some(_), Some(_)) => {}
        (None, None) => {
            return match ELSEWHERE.iter().find(|key| section.contains_key(**key)) {
                None => Ok(Vec::new()),
                Some(key) => refuse(format!(
                    "of the AWS tools gets its credentials by `{key}`, which is not done here. \
                     `aws configure export-credentials --profile {profile} --format env` prints \
                     variables that are taken"
                )),
            };
        }
        (key, _) => {
            let missing = if key.is_none() { KEY } else { SECRET };
            return refuse(format!("of the AWS tools has no `{missing}`"));
        }
    }
    let keys = [KEY, SECRET, "aws_session_token"];
    let taken = keys.into_iter().filter_map(|key| {
        let value = section.get(key)?;
        Some((key.to_owned(), value.clone()))
    });
    Ok(taken.collect())
}

/// The text of a file, if it is there. Whoever may not read it has no use for it either, unless a
/// profile of it is asked for.
fn text_of(path: &Path, is_asked: bool) -> Result<Option<String>, Flaw> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if is_asked && error.kind() != std::io::ErrorKind::NotFound => {
            Err(Flaw::new(path.display().to_string(), error.to_string()))
        }
        Err(_) => Ok(None),
    }
}

/// The section of `profile`, if it is there.
fn section_of(text: &str, profile: &str, prefix: Option<&str>) -> Option<Section> {
    let is_ours = |title: &str| match prefix {
        Some(prefix) if profile != "default" => {
            title.strip_prefix(prefix).map(str::trim) == Some(profile)
        }
        _ => title == profile || title.strip_prefix("profile ").map(str::trim) == Some(profile),
    };
    let (mut section, mut inside) = (None, false);
    for line in text.lines() {
        let bare = line.trim();
        if bare.is_empty() || bare.starts_with(['#', ';']) {
            continue;
        }
        if let Some(title) = bare
            .strip_prefix('[')
            .and_then(|rest| rest.split(']').next())
        {
            inside = is_ours(title.trim());
            if inside {
                section.get_or_insert_with(Section::new);
            }
        // What is indented belongs to the key above, such as `s3 =`.
        } else if inside
            && !line.starts_with([' ', '\t'])
            && let Some((key, value)) = bare.split_once('=')
            && let Some(section) = &mut section
        {
            let value = value.split(" #").next().unwrap_or_default().trim();
            section.insert(key.trim().to_ascii_lowercase(), value.to_owned());
        }
    }
    section
}

#[cfg(test)]
mod tests {
    use super::*;

    const CREDENTIALS: &str = "\
[default]
aws_access_key_id = of-default
aws_secret_access_key=secret/of+default=

# a comment
[work]
aws_access_key_id = of-work # the second
aws_secret_access_key = s
aws_session_token = t
[half]
aws_access_key_id = of-half
";
    const CONFIG: &str = "\
[default]
region = eu-west-1
[profile work]
region = eu-central-1
s3 =
  addressing_style = path
  region = nowhere
endpoint_url = http://localhost:9000
[profile half]
[profile sso]
sso_session = corp
[profile bare]
region = us-east-2
[sso-session corp]
sso_region = us-east-1
";

    fn asked(profile: Option<&str>, given: &[&str]) -> Result<Vec<(String, String)>, String> {
        let home = tempfile::tempdir().unwrap();
        let folder = home.path().join(".aws");
        std::fs::create_dir(&folder).unwrap();
        std::fs::write(folder.join("credentials"), CREDENTIALS).unwrap();
        std::fs::write(folder.join("config"), CONFIG).unwrap();
        options(given, |name| match name {
            "HOME" => Some(home.path().display().to_string()),
            "AWS_PROFILE" => profile.map(Into::into),
            _ => None,
        })
        .map_err(|flaw| format!("{} {}", flaw.key, flaw.reason))
    }

    fn pairs(expected: &[(&str, &str)]) -> Vec<(String, String)> {
        let owned = |(k, v): &(&str, &str)| ((*k).to_owned(), (*v).to_owned());
        expected.iter().map(owned).collect()
    }

    #[test]
    fn keys_region_and_endpoint_of_the_profile_are_taken() {
        let work = [
            ("aws_access_key_id", "of-work"),
            ("aws_secret_access_key", "s"),
            ("aws_session_token", "t"),
            ("aws_region", "eu-central-1"),
            ("aws_endpoint", "http://localhost:9000"),
        ];
        assert_eq!(asked(Some("work"), &[]).unwrap(), pairs(&work));
        let default = [
            ("aws_access_key_id", "of-default"),
            ("aws_secret_access_key", "secret/of+default="),
            ("aws_region", "eu-west-1"),
        ];
        assert_eq!(asked(None, &[]).unwrap(), pairs(&default));
        let bare = [("aws_region", "us-east-2")];
        assert_eq!(asked(Some("bare"), &[]).unwrap(), pairs(&bare));
    }

    #[test]
    fn what_is_given_otherwise_stands() {
        for given in ["access_key_id", "aws_access_key_id", "skip_signature"] {
            let taken = asked(Some("work"), &[given, "endpoint_url"]).unwrap();
            assert_eq!(taken, pairs(&[("aws_region", "eu-central-1")]), "{given}");
        }
        let taken = asked(Some("sso"), &["aws_access_key_id", "region"]).unwrap();
        assert_eq!(taken, []);
    }

    #[test]
    fn what_cannot_be_honoured_is_refused_by_name() {
        for (profile, told) in [
            (
                "wrok",
                "AWS_PROFILE names the profile `wrok`, which is not there",
            ),
            (
                "half",
                "profile half of the AWS tools has no `aws_secret_access_key`",
            ),
            ("sso", "`sso_session`, which is not done here"),
        ] {
            let error = asked(Some(profile), &[]).unwrap_err();
            assert!(
                error.contains(told) && !error.contains("of-half"),
                "{error}"
            );
        }
        let nothing = options(&[], |name| (name == "HOME").then(|| "/nowhere".into()));
        assert_eq!(nothing.unwrap(), []);
    }
}
