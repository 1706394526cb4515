//! Azure Blob Storage.

use crate::{client_options, retries};
use object_store::azure::{MicrosoftAzure, MicrosoftAzureBuilder};
use weir_snapshot::storage::{StorageAddress, StorageOptions};

/// What stands between `container` and `account` in the host of an `abfss` address.
const DFS_HOST: &str = ".dfs.";

pub(crate) fn connect(address: &StorageAddress, options: &StorageOptions) -> Result<MicrosoftAzure, String> {
    let place = Place::of(address)?;
    let mut builder = MicrosoftAzureBuilder::from_env()
        .with_container_name(place.container)
        .with_retry(retries())
        .with_client_options(client_options(options));
    let account = options.credentials.as_ref().and_then(|secrets| secrets.get("accountName")).or(place.account);
    if let Some(account) = account {
        builder = builder.with_account(account);
    }
    if let Some(endpoint) = options.endpoint.clone().or(place.endpoint) {
        builder = builder.with_endpoint(endpoint.trim_end_matches('/').to_owned());
    }
    if let Some(secrets) = &options.credentials {
        builder = builder.with_access_key(secrets.require("accountKey")?);
    }
    builder.build().map_err(|error| {
        let hint = "name the account in AZURE_STORAGE_ACCOUNT_NAME, as `accountName` in the credentials, or in the \
                    address: abfss://container@account.dfs.core.windows.net/prefix";
        match error.to_string() {
            reason if reason.contains("Account must be specified") => format!("{reason}; {hint}"),
            reason => reason,
        }
    })
}

/// What an address says of where its objects are.
#[derive(Debug, PartialEq, Eq)]
struct Place<'a> {
    container: &'a str,
    account: Option<&'a str>,
    endpoint: Option<String>,
}

impl<'a> Place<'a> {
    fn of(address: &'a StorageAddress) -> Result<Self, String> {
        let authority = address.authority.as_str();
        if address.scheme == "az" {
            return match authority {
                "" => Err("it names no container: `az://container/prefix`".to_owned()),
                container => Ok(Place { container, account: None, endpoint: None }),
            };
        }
        let form = "`abfss://container@account.dfs.core.windows.net/prefix`";
        let parts = authority.split_once('@').and_then(|(container, host)| {
            let (account, domain) = host.split_once(DFS_HOST)?;
            (!container.is_empty() && !account.is_empty()).then_some((container, account, domain))
        });
        let (container, account, domain) = parts.ok_or_else(|| format!("it is not of the form {form}"))?;
        // The objects are the same ones by the blob service, which knows conditions on writes.
        let endpoint = format!("https://{account}.blob.{domain}");
        Ok(Place { container, account: Some(account), endpoint: Some(endpoint) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places() {
        let place = |uri: &str| {
            let address = StorageAddress::parse(uri).map_err(|error| error.to_string())?;
            Place::of(&address).map(|place| format!("{place:?}"))
        };
        let expected = r#"Place { container: "c", account: None, endpoint: None }"#;
        assert_eq!(place("az://c/x").unwrap(), expected);
        let named = place("abfss://c@a.dfs.core.chinacloudapi.cn/x").unwrap();
        assert!(
            named.contains(r#"account: Some("a")"#) && named.contains("https://a.blob.core.chinacloudapi.cn"),
            "{named}"
        );
        for bad in ["az:///x", "abfss://c/x", "abfss://@a.dfs.core.windows.net/x"] {
            assert!(place(bad).is_err(), "{bad}");
        }
    }
}
