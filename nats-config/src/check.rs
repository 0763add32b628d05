//! Compares a running server with the code: accounts (and with them every permission), streams,
//! buckets, consumers. Changes nothing. What the server has beyond the code is a difference, too:
//! a consumer that nobody wrote down may be somebody reading along.

use crate::{
    admin::{Admin, AdminError},
    api,
    diff::{Difference, differences},
    init::{RenderedAccount, comparable},
    provision::{consumer_differences, stream_differences},
    streams::{self, ConsumerSpec, Replicas},
};
use hotcell_schemas::{TenantId, records::TenantRecord, routes::StreamId, tenancy::TenantState};
use serde_json::{Value, json};

impl Admin {
    /// What of the running server is not as the code says; nothing when equal.
    ///
    /// # Errors
    /// As the broker says.
    pub async fn check(&self, replicas: Replicas) -> Result<Vec<Difference>, AdminError> {
        let mut all = Vec::new();
        let platform = self.installation().platform_accounts().map_err(AdminError::Installation)?;
        for account in &platform {
            self.check_account(account, &mut all).await?;
        }
        let mut consumers = streams::consumers();
        if !self.check_streams(replicas, &mut all).await? {
            return Ok(all);
        }
        for record in self.tenants().await? {
            if record.state == TenantState::Removed {
                self.check_removed(&record, &mut all).await?;
                continue;
            }
            self.check_tenant(&record, &mut all).await?;
            let work = |pool| streams::tenant_consumers(&record.id, pool, record.concurrency);
            consumers.extend(record.pools.iter().flat_map(work));
        }
        for stream in StreamId::ALL {
            self.check_consumers(stream, &consumers, &mut all).await?;
        }
        Ok(all)
    }

    async fn check_account(
        &self,
        account: &RenderedAccount,
        all: &mut Vec<Difference>,
    ) -> Result<(), AdminError> {
        let what = format!("account {}", account.name);
        match self.stored_claims(&account.claims.sub).await? {
            None => all.push(Difference::Missing { what }),
            Some(found) => {
                all.extend(differences(&what, &comparable(&account.claims), &comparable(&found)));
            }
        }
        Ok(())
    }

    async fn check_tenant(
        &self,
        record: &TenantRecord,
        all: &mut Vec<Difference>,
    ) -> Result<(), AdminError> {
        if !self.knows(&record.id) {
            let what = format!("tenant {}, whose keys are not in this installation", record.id);
            all.push(Difference::Unexpected { what });
            return Ok(());
        }
        let account = self
            .installation()
            .tenant_account(&record.id, record.state)
            .map_err(AdminError::Installation)?;
        self.check_account(&account, all).await?;
        let what = format!("tenant {}", record.id);
        let expected = json!({"account": account.claims.sub, "slug": record.id});
        let slug = self.get::<TenantId>("tenants", &api::account_key(&account.claims.sub)).await?;
        let found = json!({"account": record.account, "slug": slug.value});
        all.extend(differences(&what, &expected, &found));
        Ok(())
    }

    /// A removed tenant has no account; its name stays taken.
    async fn check_removed(
        &self,
        record: &TenantRecord,
        all: &mut Vec<Difference>,
    ) -> Result<(), AdminError> {
        if self.stored_claims(&record.account).await?.is_some() {
            let what = format!("account of removed tenant {}", record.id);
            all.push(Difference::Unexpected { what });
        }
        Ok(())
    }

    /// Whether all streams are there, so that it makes sense to look into them.
    async fn check_streams(
        &self,
        replicas: Replicas,
        all: &mut Vec<Difference>,
    ) -> Result<bool, AdminError> {
        let mut complete = true;
        let specs = streams::streams(replicas);
        for spec in &specs {
            let subject = api::stream_info(&spec.name);
            match self.ask("read a stream", subject, &json!({})).await? {
                Some(info) => all.extend(stream_differences(spec, &info)),
                None => {
                    complete = false;
                    all.push(Difference::Missing { what: format!("stream {}", spec.name) });
                }
            }
        }
        for name in self.names(api::STREAM_NAMES.to_owned(), "streams").await? {
            if !specs.iter().any(|spec| spec.name == name) {
                all.push(Difference::Unexpected { what: format!("stream {name}") });
            }
        }
        Ok(complete)
    }

    async fn check_consumers(
        &self,
        stream: StreamId,
        specs: &[ConsumerSpec],
        all: &mut Vec<Difference>,
    ) -> Result<(), AdminError> {
        let stream_name = stream.as_str();
        for spec in specs.iter().filter(|spec| spec.stream == stream) {
            let subject = api::consumer_info(stream_name, &spec.name);
            match self.ask("read a consumer", subject, &json!({})).await? {
                Some(info) => all.extend(consumer_differences(spec, &info)),
                None => all.push(Difference::Missing { what: format!("consumer {}", spec.name) }),
            }
        }
        for name in self.names(api::consumer_names(stream_name), "consumers").await? {
            if !specs.iter().any(|spec| spec.stream == stream && spec.name == name) {
                let what = format!("consumer {name} of stream {stream_name}");
                all.push(Difference::Unexpected { what });
            }
        }
        Ok(())
    }

    /// All pages of one of the broker's lists of names.
    async fn names(&self, subject: String, field: &str) -> Result<Vec<String>, AdminError> {
        let what = "list names";
        let mut names = Vec::new();
        loop {
            let body = json!({"offset": names.len()});
            let page = self.ask(what, subject.clone(), &body).await?;
            let page = page.ok_or(AdminError::Answer(what))?;
            let before = names.len();
            let found = page.get(field).and_then(Value::as_array).into_iter().flatten();
            names.extend(found.filter_map(Value::as_str).map(str::to_owned));
            let total = page.get("total").and_then(Value::as_u64).unwrap_or_default();
            let read = u64::try_from(names.len()).unwrap_or(u64::MAX);
            if names.len() == before || read >= total {
                return Ok(names);
            }
        }
    }
}
