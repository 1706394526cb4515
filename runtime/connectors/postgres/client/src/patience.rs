//! How long an answer is waited for.
//!
//! A statement may take as long as it takes: a lock is held, a batch is large. But a server that hangs closes no connection,
//! and its system goes on to acknowledge what we send. Whether it works shows by another connection.

use crate::connection::failure;
use crate::tls::Tls;
use crate::url::ConnectionUrl;
use std::future::Future;
use std::time::Duration;
use tokio_postgres::{Client, Config, Connection, Error, Socket};
use weir_connectors::api::ConnectorError;

/// Looks at a server that doesn't answer, in a row, until it is taken for gone.
const LOOKS: u32 = 3;

pub(crate) enum Patience {
    /// For each answer.
    Limited(Duration),
    /// As long as the server answers others.
    WhileItWorks(Box<Look>),
}

/// Another connection, to see whether the server answers.
pub(crate) struct Look {
    config: Config,
    tls: Tls,
    /// Of making a connection.
    limit: Duration,
}

impl Patience {
    pub(crate) fn while_it_works(url: &ConnectionUrl, tls: Tls) -> Self {
        Patience::WhileItWorks(Box::new(Look { config: url.config.clone(), tls, limit: connect_limit(url) }))
    }

    /// None: it did not come, and may not be waited for any longer.
    pub(crate) async fn wait<T>(
        &self,
        answer: impl Future<Output = Result<T, Error>>,
    ) -> Option<Result<T, ConnectorError>> {
        let answer = async { answer.await.map_err(|error| failure(&error)) };
        match self {
            Patience::Limited(limit) => tokio::time::timeout(*limit, answer).await.ok(),
            Patience::WhileItWorks(look) => tokio::select! {
                biased;
                answered = answer => Some(answered),
                () = look.until_it_is_gone() => None,
            },
        }
    }

    pub(crate) fn give_up(&self) -> ConnectorError {
        ConnectorError::Transient(match self {
            Patience::Limited(limit) => format!("no answer within {limit:?}"),
            Patience::WhileItWorks(look) => {
                format!("no answer, and {LOOKS} more connections to the server had none within {:?} each", look.limit)
            }
        })
    }
}

impl Look {
    async fn until_it_is_gone(&self) {
        let mut in_vain = 0;
        while in_vain < LOOKS {
            tokio::time::sleep(self.limit).await;
            in_vain = if self.works().await { 0 } else { in_vain + 1 };
        }
    }

    async fn works(&self) -> bool {
        match connect(&self.config, &self.tls, self.limit).await {
            Some(Ok(_)) => true,
            // Whoever refuses works.
            Some(Err(error)) => error.as_db_error().is_some(),
            None => false,
        }
    }
}

type Connected = (Client, Connection<Socket, <Tls as tokio_postgres::tls::MakeTlsConnect<Socket>>::Stream>);

/// None: not within the limit.
pub(crate) async fn connect(config: &Config, tls: &Tls, limit: Duration) -> Option<Result<Connected, Error>> {
    tokio::time::timeout(limit, config.connect(tls.clone())).await.ok()
}

/// Of a connection with all that belongs to it; the URL's own limit is that of each TCP connection.
pub(crate) fn connect_limit(url: &ConnectionUrl) -> Duration {
    let hosts = url.config.get_hosts().len().max(url.config.get_hostaddrs().len());
    let each = url.config.get_connect_timeout().copied().unwrap_or_default();
    each * (u32::try_from(hosts).unwrap_or(1) + 1)
}
