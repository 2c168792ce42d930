//! A policy as KEY=VALUE: its keys are those of the map. Pure.

use crate::cluster::map::Policy;
use anyhow::{Context, anyhow, bail};
use serde_json::{Map, Value};

/// What is written where there is no value.
const NONE: &str = "none";

/// A line for each key; or all of it as JSON.
pub fn shown(policy: &Policy, json: bool) -> anyhow::Result<String> {
    if json {
        return Ok(serde_json::to_string_pretty(policy)? + "\n");
    }
    let line = |(key, value): (String, Value)| match value {
        Value::Null => format!("{key}={NONE}\n"),
        Value::String(text) => format!("{key}={text}\n"),
        other => format!("{key}={other}\n"),
    };
    Ok(table(policy)?.into_iter().map(line).collect())
}

/// The policy with these changes, each KEY=VALUE. Err: there is no such key, or the value makes no
/// sense there.
pub fn changed(policy: &Policy, changes: &[String]) -> anyhow::Result<Policy> {
    let mut table = table(policy)?;
    for change in changes {
        let (key, value) = change.split_once('=').ok_or_else(|| anyhow!("{change}: write KEY=VALUE"))?;
        let keys = table.keys().cloned().collect::<Vec<_>>().join(", ");
        let Some(place) = table.get_mut(key) else { bail!("there is no {key} in a policy: its keys are {keys}") };
        *place = match value {
            NONE => Value::Null,
            text => serde_json::from_str(text).unwrap_or_else(|_| Value::String(text.into())),
        };
        let alone = serde_json::from_value::<Policy>(Value::Object(table.clone()));
        alone.with_context(|| format!("{change}: this is no value of {key}"))?;
    }
    let changed: Policy = serde_json::from_value(Value::Object(table))?;
    changed.check().map_err(|why| anyhow!(why))?;
    Ok(changed)
}

fn table(policy: &Policy) -> anyhow::Result<Map<String, Value>> {
    match serde_json::to_value(policy)? {
        Value::Object(table) => Ok(table),
        other => bail!("a policy is a table, and not {other}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(changes: &[&str]) -> anyhow::Result<Policy> {
        changed(&Policy::default(), &changes.iter().map(|change| change.to_string()).collect::<Vec<_>>())
    }

    #[test]
    fn each_key_is_shown_and_can_be_given_back() {
        let text = shown(&Policy::default(), false).unwrap();
        assert!(text.contains("acks=1\n") && text.contains("copy_mib_per_second=none\n"), "{text}");
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(change(&lines).unwrap(), Policy::default());
        let json: Policy = serde_json::from_str(&shown(&Policy::default(), true).unwrap()).unwrap();
        assert_eq!(json, Policy::default());
    }

    #[test]
    fn keys_are_changed_together_and_checked_together() {
        let policy = change(&["replicas=2", "acks=2", "copy_mib_per_second=100"]).unwrap();
        assert_eq!((policy.replicas, policy.acks, policy.copy_mib_per_second), (2, 2, Some(100)));
        assert_eq!(changed(&policy, &["copy_mib_per_second=none".into()]).unwrap().copy_mib_per_second, None);
        for (changes, why) in [
            (["acks=2"], "no write can be acknowledged"),
            (["acks"], "KEY=VALUE"),
            (["ack=1"], "its keys are "),
            (["acks=many"], "acks=many"),
            (["acks=none"], "acks=none"),
            (["acks=-1"], "acks=-1"),
            (["lease_ms=1"], "300 to 60000"),
        ] {
            let error = format!("{:#}", change(&changes).unwrap_err());
            assert!(error.contains(why), "{changes:?}: {error}");
        }
    }
}
