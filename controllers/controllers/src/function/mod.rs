//! Functions: each becomes a Deployment and a Service of its name; its status tells where it is served.
mod plan;
#[cfg(test)]
mod tests;

use crate::context::{Context, controller_key};
use crate::error::{Doing, Error};
use crate::reconcile::{Outcome, feed, object, own_key, work};
use client::dhow::v1alpha1::Function;
use client::k8s_openapi::NamespaceResourceScope;
use client::k8s_openapi::api::apps::v1::Deployment;
use client::k8s_openapi::api::core::v1::Service;
use client::kube::Resource;
use client::kube::api::{Api, PostParams};
use client::{Change, EventType, Informer, Object, ObjectKey};
use plan::Step;
use serde::Serialize;

/// Functions worked on at a time.
const WORKERS: usize = 5;

struct Controller {
    ctx: Context,
    functions: Informer<Function>,
    deployments: Informer<Deployment>,
    services: Informer<Service>,
}

/// Runs until the shutdown.
pub(crate) async fn run(ctx: Context) {
    let c =
        Controller { functions: ctx.informer(), deployments: ctx.informer(), services: ctx.informer(), ctx };
    let queue = c.ctx.queue::<ObjectKey>();
    let functions = feed(c.functions.clone(), queue.clone(), own_key);
    let deployments = feed(c.deployments.clone(), queue.clone(), |change| c.function_of(change));
    let services = feed(c.services.clone(), queue.clone(), |change| c.function_of(change));
    let workers = async {
        if c.functions.synced().await && c.deployments.synced().await && c.services.synced().await {
            work("function", &queue, WORKERS, |key| c.sync_function(key)).await;
        }
    };
    tokio::join!(functions, deployments, services, workers);
}

impl Controller {
    /// The Function that made the object; or the one of its name, that may have waited for the name.
    fn function_of<K: Object>(&self, change: &Change<K>) -> Option<ObjectKey> {
        let meta = object(change)?.meta();
        controller_key(meta, "dhow.dev", "Function").or_else(|| {
            let key = ObjectKey::new(meta.namespace.clone()?, meta.name.clone()?);
            self.functions.get(&key.namespace, &key.name).map(|_| key)
        })
    }

    async fn sync_function(&self, key: ObjectKey) -> Outcome {
        let Some(function) = self.functions.get(&key.namespace, &key.name) else { return Ok(None) };
        let deployment = self.deployments.get(&key.namespace, &key.name);
        let service = self.services.get(&key.namespace, &key.name);
        let plan = plan::plan_function(&plan::World {
            function: &function,
            deployment: deployment.as_deref(),
            service: service.as_deref(),
            gateway_port: self.ctx.config.gateway_port,
            now: self.ctx.now(),
        });
        self.apply(&function, &key, &plan.service).await?;
        self.apply(&function, &key, &plan.deployment).await?;
        if let Some(status) = plan.status {
            let api: Api<Function> = Api::namespaced(self.ctx.client.clone(), &key.namespace);
            let mut wanted = (*function).clone();
            wanted.status = Some(status);
            match api.replace_status(&key.name, &PostParams::default(), &wanted).await {
                Ok(_) => {}
                Err(error) if client::is_not_found(&error) => {}
                Err(error) => return Err(error).doing(|| format!("write the status of function {key}")),
            }
        }
        Ok(None)
    }

    async fn apply<K>(&self, function: &Function, key: &ObjectKey, step: &Step<K>) -> Result<(), Error>
    where
        K: Object + Serialize + Resource<DynamicType = (), Scope = NamespaceResourceScope>,
    {
        let api: Api<K> = Api::namespaced(self.ctx.client.clone(), &key.namespace);
        let kind = K::kind(&());
        let written = match step {
            Step::Nothing | Step::Taken => return Ok(()),
            Step::Create(object) => {
                api.create(&PostParams::default(), object).await.doing(|| format!("create {kind} {key}"))
            }
            Step::Update(object) => api
                .replace(&key.name, &PostParams::default(), object)
                .await
                .doing(|| format!("update {kind} {key}")),
        };
        match written {
            Ok(_) => Ok(()),
            Err(error) if error.is_namespace_terminating() => Ok(()),
            Err(error) => {
                if !error.is_race() {
                    let text = format!("cannot write the {kind}: {}", error.server_message());
                    self.ctx.recorder.event(function, EventType::Warning, "FailedWrite", text);
                }
                Err(error)
            }
        }
    }
}
