use crate::figures::Figures;
use crate::helpers::Helpers;
use crate::options;
use crate::restore::{LeftOpen, open_store};
use crate::scratch::Scratch;
use crate::settings::{Memory, Settings};
use crate::store::RocksDbStore;
use rocksdb::{Cache, Options, WriteBufferManager};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use weir_state::{
    CacheBudget, ColdConfig, KeptState, KeyedState, KeyedStateHandle, SegmentSource, StateConfig, StateError,
};

/// What all stores of a process share: one block cache, one bound for write buffers (charged to it), one budget for the
/// rows before the stores, RocksDB's threads, and a scratch folder.
pub struct RocksDb {
    pub(crate) scratch: Arc<Scratch>,
    pub(crate) options: Options,
    pub(crate) cache: Cache,
    pub(crate) write_buffers: WriteBufferManager,
    pub(crate) settings: Settings,
    memory: Memory,
    pub(crate) helpers: Helpers,
    rows: Arc<CacheBudget>,
    stores: Mutex<Vec<Weak<RocksDbStore>>>,
}

impl RocksDb {
    /// # Errors
    /// The folder cannot be made.
    pub fn new(settings: &Settings) -> Result<Arc<Self>, StateError> {
        let memory = settings.memory();
        let cache = options::cache(memory.block_cache);
        let write_buffers =
            WriteBufferManager::new_write_buffer_manager_with_cache(memory.write_buffers, false, cache.clone());
        Ok(Arc::new(RocksDb {
            scratch: Scratch::new(settings.folder.as_deref())?,
            options: options::of_store(settings, &cache, &write_buffers),
            cache,
            write_buffers,
            settings: settings.clone(),
            memory,
            helpers: Helpers::new(),
            rows: CacheBudget::new(memory.row_caches),
            stores: Mutex::default(),
        }))
    }

    /// State of one subtask in front of a store of its own, as the handles have it, of whatever backend they are, and
    /// former subtasks in memory. `name` tells its folder from others, for people.
    ///
    /// # Errors
    /// As `KeyedState::open`, and what RocksDB says.
    pub fn open(
        self: &Arc<Self>,
        name: &str,
        config: StateConfig,
        kept: &mut [&mut KeptState],
        handles: &[KeyedStateHandle],
        source: &dyn SegmentSource,
    ) -> Result<KeyedState, StateError> {
        let store = self.store(name, &config, kept, handles, source)?;
        KeyedState::open_cold(config, ColdConfig { store, cache: self.rows.clone() }, kept, handles, source)
    }

    /// A store that holds the owned key groups of the files that the handles name. Of those that former subtasks have
    /// left open nothing is read from the source.
    ///
    /// # Errors
    /// What the source says of a file, and what RocksDB says.
    pub fn store(
        self: &Arc<Self>,
        name: &str,
        config: &StateConfig,
        kept: &[&mut KeptState],
        handles: &[KeyedStateHandle],
        source: &dyn SegmentSource,
    ) -> Result<Arc<RocksDbStore>, StateError> {
        let store = Arc::new(open_store(self, name, config, &self.left_open(kept), handles, source)?);
        let mut stores = self.stores.lock().unwrap_or_else(PoisonError::into_inner);
        stores.retain(|store| store.strong_count() > 0);
        stores.push(Arc::downgrade(&store));
        Ok(store)
    }

    /// The stores of this process among what was kept.
    fn left_open(&self, kept: &[&mut KeptState]) -> Vec<LeftOpen> {
        let stores = self.stores.lock().unwrap_or_else(PoisonError::into_inner);
        let own = |kept: &&mut KeptState| {
            let is_it = |store: &Arc<RocksDbStore>| {
                kept.store().is_some_and(|kept| std::ptr::addr_eq(Arc::as_ptr(kept), Arc::as_ptr(store)))
            };
            let store = stores.iter().filter_map(Weak::upgrade).find(is_it)?;
            Some(LeftOpen { key_groups: kept.key_groups(), store })
        };
        kept.iter().filter_map(own).collect()
    }

    /// What the stores are doing.
    pub fn figures(&self) -> Figures {
        let stores: Vec<Arc<RocksDbStore>> = {
            let stores = self.stores.lock().unwrap_or_else(PoisonError::into_inner);
            stores.iter().filter_map(Weak::upgrade).collect()
        };
        let mut figures = Figures {
            block_cache_bytes: self.cache.get_usage() as u64,
            block_cache_capacity_bytes: self.memory.block_cache as u64,
            write_buffer_bytes: self.write_buffers.get_usage() as u64,
            row_cache_capacity_bytes: self.memory.row_caches as u64,
            ..Figures::default()
        };
        stores.iter().for_each(|store| store.add_figures(&mut figures));
        figures
    }
}
