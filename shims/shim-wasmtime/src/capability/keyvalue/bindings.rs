//! The two versions of the interface that guests are built against, on the same buckets.
use super::{Access, Cas, Handle, Refused};
use crate::capability::HasAccess;
use crate::guest::ComponentState;
use wasmtime::component::{Linker, Resource};

mod draft {
    wasmtime::component::bindgen!({
        inline: r#"
            package dhow:keyvalue;
            world imports {
                import wasi:keyvalue/store@0.2.0-draft;
                import wasi:keyvalue/atomics@0.2.0-draft;
                import wasi:keyvalue/batch@0.2.0-draft;
            }
            package wasi:keyvalue@0.2.0-draft {
                interface store {
                    variant error { no-such-store, access-denied, other(string) }
                    record key-response { keys: list<string>, cursor: option<u64> }
                    open: func(identifier: string) -> result<bucket, error>;
                    resource bucket {
                        get: func(key: string) -> result<option<list<u8>>, error>;
                        set: func(key: string, value: list<u8>) -> result<_, error>;
                        delete: func(key: string) -> result<_, error>;
                        exists: func(key: string) -> result<bool, error>;
                        list-keys: func(cursor: option<u64>) -> result<key-response, error>;
                    }
                }
                interface atomics {
                    use store.{bucket, error};
                    increment: func(bucket: borrow<bucket>, key: string, delta: u64) -> result<u64, error>;
                }
                interface batch {
                    use store.{bucket, error};
                    get-many: func(bucket: borrow<bucket>, keys: list<string>)
                        -> result<list<option<tuple<string, list<u8>>>>, error>;
                    set-many: func(bucket: borrow<bucket>, key-values: list<tuple<string, list<u8>>>)
                        -> result<_, error>;
                    delete-many: func(bucket: borrow<bucket>, keys: list<string>) -> result<_, error>;
                }
            }
        "#,
        world: "dhow:keyvalue/imports",
        imports: { default: async | trappable },
        with: { "wasi:keyvalue/store.bucket": crate::capability::keyvalue::Handle },
        trappable_error_type: { "wasi:keyvalue/store.error" => crate::capability::keyvalue::Refused },
    });
}

mod draft2 {
    wasmtime::component::bindgen!({
        inline: r#"
            package dhow:keyvalue;
            world imports {
                import wasi:keyvalue/store@0.2.0-draft2;
                import wasi:keyvalue/atomics@0.2.0-draft2;
                import wasi:keyvalue/batch@0.2.0-draft2;
            }
            package wasi:keyvalue@0.2.0-draft2 {
                interface store {
                    variant error { no-such-store, access-denied, other(string) }
                    record key-response { keys: list<string>, cursor: option<string> }
                    open: func(identifier: string) -> result<bucket, error>;
                    resource bucket {
                        get: func(key: string) -> result<option<list<u8>>, error>;
                        set: func(key: string, value: list<u8>) -> result<_, error>;
                        delete: func(key: string) -> result<_, error>;
                        exists: func(key: string) -> result<bool, error>;
                        list-keys: func(cursor: option<string>) -> result<key-response, error>;
                    }
                }
                interface atomics {
                    use store.{bucket, error};
                    variant cas-error { store-error(error), cas-failed(cas) }
                    resource cas {
                        new: static func(bucket: borrow<bucket>, key: string) -> result<cas, error>;
                        current: func() -> result<option<list<u8>>, error>;
                    }
                    increment: func(bucket: borrow<bucket>, key: string, delta: s64) -> result<s64, error>;
                    swap: func(cas: cas, value: list<u8>) -> result<_, cas-error>;
                }
                interface batch {
                    use store.{bucket, error};
                    get-many: func(bucket: borrow<bucket>, keys: list<string>)
                        -> result<list<option<tuple<string, list<u8>>>>, error>;
                    set-many: func(bucket: borrow<bucket>, key-values: list<tuple<string, list<u8>>>)
                        -> result<_, error>;
                    delete-many: func(bucket: borrow<bucket>, keys: list<string>) -> result<_, error>;
                }
            }
        "#,
        world: "dhow:keyvalue/imports",
        imports: { default: async | trappable },
        with: {
            "wasi:keyvalue/store.bucket": crate::capability::keyvalue::Handle,
            "wasi:keyvalue/atomics.cas": crate::capability::keyvalue::Cas,
        },
        trappable_error_type: { "wasi:keyvalue/store.error" => crate::capability::keyvalue::Refused },
    });
}

pub(super) fn link(linker: &mut Linker<ComponentState>) -> wasmtime::Result<()> {
    use {draft::wasi::keyvalue as one, draft2::wasi::keyvalue as two};
    one::store::add_to_linker::<_, HasAccess>(linker, ComponentState::access)?;
    one::atomics::add_to_linker::<_, HasAccess>(linker, ComponentState::access)?;
    one::batch::add_to_linker::<_, HasAccess>(linker, ComponentState::access)?;
    two::store::add_to_linker::<_, HasAccess>(linker, ComponentState::access)?;
    two::atomics::add_to_linker::<_, HasAccess>(linker, ComponentState::access)?;
    two::batch::add_to_linker::<_, HasAccess>(linker, ComponentState::access)
}

/// What is the same in both versions, word for word.
macro_rules! same_in {
    ($version:ident, $cursor:ty, $into:expr, $from:expr) => {
        impl $version::wasi::keyvalue::store::Host for Access<'_> {
            async fn open(&mut self, identifier: String) -> Result<Resource<Handle>, Refused> {
                self.open_bucket(&identifier)
            }

            fn convert_error(
                &mut self,
                refused: Refused,
            ) -> wasmtime::Result<$version::wasi::keyvalue::store::Error> {
                use $version::wasi::keyvalue::store::Error;
                Ok(match refused {
                    Refused::NoSuchStore => Error::NoSuchStore,
                    Refused::Other(text) => Error::Other(text),
                })
            }
        }

        impl $version::wasi::keyvalue::store::HostBucket for Access<'_> {
            async fn get(
                &mut self,
                bucket: Resource<Handle>,
                key: String,
            ) -> Result<Option<Vec<u8>>, Refused> {
                self.get_value(&bucket, key).await
            }

            async fn set(
                &mut self,
                bucket: Resource<Handle>,
                key: String,
                value: Vec<u8>,
            ) -> Result<(), Refused> {
                self.set_pairs(&bucket, vec![(key, value)]).await
            }

            async fn delete(&mut self, bucket: Resource<Handle>, key: String) -> Result<(), Refused> {
                self.delete_keys(&bucket, vec![key]).await
            }

            async fn exists(&mut self, bucket: Resource<Handle>, key: String) -> Result<bool, Refused> {
                self.has_key(&bucket, key).await
            }

            async fn list_keys(
                &mut self,
                bucket: Resource<Handle>,
                cursor: Option<$cursor>,
            ) -> Result<$version::wasi::keyvalue::store::KeyResponse, Refused> {
                let cursor = cursor.map_or(Ok(0), $from)?;
                let (keys, next) = self.bucket(&bucket)?.list(cursor).await?;
                Ok($version::wasi::keyvalue::store::KeyResponse { keys, cursor: next.map($into) })
            }

            async fn drop(&mut self, bucket: Resource<Handle>) -> wasmtime::Result<()> {
                self.table.delete(bucket)?;
                Ok(())
            }
        }

        impl $version::wasi::keyvalue::batch::Host for Access<'_> {
            async fn get_many(
                &mut self,
                bucket: Resource<Handle>,
                keys: Vec<String>,
            ) -> Result<Vec<Option<(String, Vec<u8>)>>, Refused> {
                self.get_pairs(&bucket, keys).await
            }

            async fn set_many(
                &mut self,
                bucket: Resource<Handle>,
                pairs: Vec<(String, Vec<u8>)>,
            ) -> Result<(), Refused> {
                self.set_pairs(&bucket, pairs).await
            }

            async fn delete_many(
                &mut self,
                bucket: Resource<Handle>,
                keys: Vec<String>,
            ) -> Result<(), Refused> {
                self.delete_keys(&bucket, keys).await
            }
        }
    };
}

same_in!(draft, u64, |next| next, Ok::<u64, Refused>);
same_in!(draft2, String, |next: u64| next.to_string(), |text: String| {
    text.parse().map_err(|_| Refused::Other(format!("{text:?} is no cursor of this store")))
});

impl draft::wasi::keyvalue::atomics::Host for Access<'_> {
    async fn increment(&mut self, bucket: Resource<Handle>, key: String, delta: u64) -> Result<u64, Refused> {
        let delta =
            i64::try_from(delta).map_err(|_| Refused::Other(format!("{delta} is too large to add")))?;
        let sum = self.increment_key(&bucket, key, delta).await?;
        u64::try_from(sum).map_err(|_| Refused::Other(format!("the value is below zero: {sum}")))
    }
}

impl draft2::wasi::keyvalue::atomics::Host for Access<'_> {
    async fn increment(&mut self, bucket: Resource<Handle>, key: String, delta: i64) -> Result<i64, Refused> {
        self.increment_key(&bucket, key, delta).await
    }

    async fn swap(
        &mut self,
        cas: Resource<Cas>,
        value: Vec<u8>,
    ) -> wasmtime::Result<Result<(), draft2::wasi::keyvalue::atomics::CasError>> {
        use draft2::wasi::keyvalue::atomics::CasError;
        use draft2::wasi::keyvalue::store::Host;
        let Cas { bucket, key, seen } = self.table.delete(cas)?;
        let pair = vec![(key.clone(), value)];
        let swapped = match super::check_pairs(&pair) {
            Ok(()) => {
                let value = pair.into_iter().next().map(|(_, value)| value).unwrap_or_default();
                bucket.swap(key.clone(), seen, value).await
            }
            Err(refused) => Err(refused),
        };
        match swapped {
            Ok(true) => Ok(Ok(())),
            Ok(false) => {
                let seen = match bucket.get(vec![key.clone()]).await {
                    Ok(mut values) => values.pop().flatten(),
                    Err(refused) => {
                        return Ok(Err(CasError::StoreError(self.convert_error(refused)?)));
                    }
                };
                let again = self.table.push(Cas { bucket, key, seen })?;
                Ok(Err(CasError::CasFailed(again)))
            }
            Err(refused) => Ok(Err(CasError::StoreError(self.convert_error(refused)?))),
        }
    }
}

impl draft2::wasi::keyvalue::atomics::HostCas for Access<'_> {
    async fn new(&mut self, bucket: Resource<Handle>, key: String) -> Result<Resource<Cas>, Refused> {
        self.new_cas(&bucket, key).await
    }

    async fn current(&mut self, cas: Resource<Cas>) -> Result<Option<Vec<u8>>, Refused> {
        Ok(self.table.get(&cas)?.seen.clone())
    }

    async fn drop(&mut self, cas: Resource<Cas>) -> wasmtime::Result<()> {
        self.table.delete(cas)?;
        Ok(())
    }
}
