//! The control queue (VIRTIO 1.3 §5.1.6.5): receive modes, MAC address, number of queue pairs.
//!
//! Receive filters are accepted and have no effect: a device may deliver more than was asked for,
//! and the interface behind this one only brings what is meant for the guest.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::config::{F_CTRL_MAC_ADDR, F_CTRL_RX, F_MQ};
use crate::event::Event;
use crate::net::{MacAddr, NetBackend};
use crate::virtio::queue::Chain;

const CLASS_RX: u8 = 0;
/// PROMISC to NOBCAST.
const RX_MODES: std::ops::RangeInclusive<u8> = 0..=5;
const CLASS_MAC: u8 = 1;
const MAC_TABLE_SET: u8 = 0;
const MAC_ADDR_SET: u8 = 1;
const CLASS_MQ: u8 = 4;
const MQ_VQ_PAIRS_SET: u8 = 0;

const ACK_OK: u8 = 0;
const ACK_ERR: u8 = 1;

/// Most addresses of one list in a MAC table.
const MAX_TABLE: u32 = 1024;

/// What the driver controls.
pub struct Control {
    /// The address shown in configuration.
    pub mac: Mutex<MacAddr>,
    /// How many pairs are in use.
    pub active: AtomicUsize,
    /// Signalled to each pair's thread when [`active`](Self::active) changes.
    pub changed: Vec<Event>,
}

impl Control {
    /// Carries out a command; returns how many bytes were written.
    pub fn command(&self, features: u64, chain: &mut Chain<'_>) -> u32 {
        let Some(ack) = chain.writable.split_last() else { return 0 };
        let done = self.execute(features, chain).is_some();
        ack.copy_from(&[if done { ACK_OK } else { ACK_ERR }]);
        1
    }

    /// `None`: the command is not understood, not negotiated, or makes no sense.
    fn execute(&self, features: u64, chain: &mut Chain<'_>) -> Option<()> {
        let mut header = [0; 2];
        chain.readable.read(&mut header)?;
        let negotiated = |bits| (features & bits != 0).then_some(());
        match header {
            [CLASS_RX, mode] if RX_MODES.contains(&mode) => {
                negotiated(F_CTRL_RX)?;
                let mut on = [0];
                chain.readable.read(&mut on)?;
                (on[0] <= 1).then_some(())
            }
            [CLASS_MAC, MAC_TABLE_SET] => {
                negotiated(F_CTRL_RX)?;
                // One list of unicast addresses, one of multicast.
                (0..2).try_for_each(|_| skip_table(chain))
            }
            [CLASS_MAC, MAC_ADDR_SET] => {
                negotiated(F_CTRL_MAC_ADDR)?;
                let mut mac = [0; 6];
                chain.readable.read(&mut mac)?;
                *self.mac.lock().expect("nothing panics under this lock") = mac;
                Some(())
            }
            [CLASS_MQ, MQ_VQ_PAIRS_SET] => {
                negotiated(F_MQ)?;
                let mut pairs = [0; 2];
                chain.readable.read(&mut pairs)?;
                self.set_active(u16::from_le_bytes(pairs).into())
            }
            _ => None,
        }
    }

    /// Sets the number of pairs in use, 1 to as many as there are.
    pub fn set_active(&self, pairs: usize) -> Option<()> {
        if !(1..=self.changed.len()).contains(&pairs) {
            return None;
        }
        self.active.store(pairs, Ordering::SeqCst);
        self.changed.iter().for_each(Event::signal);
        Some(())
    }

    /// Whether the driver wants pair `number`.
    pub fn wants(&self, number: usize) -> bool {
        number < self.active.load(Ordering::SeqCst)
    }

    /// Lets pair `number` join the interface's queues, or leave them, as the driver wishes; true
    /// when it has joined.
    pub fn follow(&self, number: usize, backend: &mut dyn NetBackend) -> bool {
        let wanted = self.wants(number);
        match backend.set_enabled(wanted) {
            Ok(()) => wanted,
            Err(error) => {
                log::warn!("net{number}: queue cannot be switched: {error}");
                false
            }
        }
    }
}

fn skip_table(chain: &mut Chain<'_>) -> Option<()> {
    let mut entries = [0; 4];
    chain.readable.read(&mut entries)?;
    let entries = u32::from_le_bytes(entries);
    if entries > MAX_TABLE {
        return None;
    }
    chain.readable.skip(entries as usize * 6)
}
