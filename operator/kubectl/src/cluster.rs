//! The cluster as a user sees it: through the kubeconfig, and to a job's coordinator through the API server.

use anyhow::{Context, Result, anyhow, bail};
use http::Request;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::Secret;
use kube::api::Api;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config, Resource};
use serde::de::DeserializeOwned;
use weir_api::{Operation, Problem};
use weir_crds::StreamJob;
use weir_operator::names;

/// In which the coordinator is shown the token: the API server keeps `Authorization` for itself.
const TOKEN_HEADER: &str = "weir-token";

pub struct Cluster {
    pub client: Client,
    pub namespace: String,
}

impl Cluster {
    pub async fn connect(context: Option<String>, namespace: Option<String>) -> Result<Self> {
        let options = KubeConfigOptions { context, ..KubeConfigOptions::default() };
        let kubeconfig = Kubeconfig::read().context("no cluster is known: KUBECONFIG or ~/.kube/config")?;
        let config = Config::from_custom_kubeconfig(kubeconfig, &options).await.context("the kubeconfig")?;
        let namespace = namespace.unwrap_or_else(|| config.default_namespace.clone());
        Ok(Cluster { client: Client::try_from(config)?, namespace })
    }

    pub fn api<K>(&self) -> Api<K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
    {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    pub async fn job(&self, name: &str) -> Result<StreamJob> {
        let found = self.api::<StreamJob>().get_opt(name).await.context("the API server")?;
        found.ok_or_else(|| anyhow!("there is no StreamJob `{name}` in the namespace `{}`", self.namespace))
    }

    /// What the job's coordinator says, as text.
    pub async fn ask(&self, job: &str, operation: Operation, body: Option<String>) -> Result<String> {
        let service = format!("https:{}:https", names::coordinator(job));
        let (namespace, path) = (&self.namespace, operation.path());
        let uri = format!("/api/v1/namespaces/{namespace}/services/{service}/proxy{path}");
        let mut request = if operation.is_post() { Request::post(uri) } else { Request::get(uri) };
        if let Some(token) = self.token(job).await? {
            request = request.header(TOKEN_HEADER, token);
        }
        let request = request.body(body.unwrap_or_default().into_bytes())?;
        match self.client.request_text(request).await {
            Ok(text) => Ok(text),
            Err(kube::Error::Api(status)) => match serde_json::from_str::<Problem>(&status.message) {
                Ok(problem) => bail!(problem.detail),
                Err(_) if status.code == 503 => bail!("the job's coordinator does not answer; does the job run?"),
                Err(_) => bail!("{} ({})", status.message, status.code),
            },
            Err(error) => Err(error).context("the API server's proxy to the coordinator"),
        }
    }

    pub async fn view<T: DeserializeOwned>(&self, job: &str, operation: Operation) -> Result<T> {
        let text = self.ask(job, operation, None).await?;
        serde_json::from_str(&text).context("the coordinator answers something else than this version expects")
    }

    /// Of the job's Secret. `None`: this user may not read it, or there is none.
    async fn token(&self, job: &str) -> Result<Option<String>> {
        match self.api::<Secret>().get_opt(&names::token(job)).await {
            Ok(secret) => {
                let token = secret.and_then(|secret| secret.data?.remove("token"));
                Ok(token.and_then(|token| String::from_utf8(token.0).ok()))
            }
            Err(kube::Error::Api(status)) if status.code == 403 => Ok(None),
            Err(error) => Err(error).context("the Secret with the job's token"),
        }
    }
}
