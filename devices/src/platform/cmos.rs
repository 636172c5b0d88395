//! MC146818 real-time clock and the 128 bytes of CMOS memory behind ports 0x70 and 0x71.
//!
//! ```text
//! 00 s | 02 min | 04 h | 06 weekday | 07 day | 08 month | 09 year | 32 century
//! 0a A: 7 update in progress    0b B: 7 SET, 2 binary, 1 24 h
//! 0c C: flags, cleared by read  0d D: 7 valid
//! ```
//! The clock is UTC. The guest may set it: what it sets is kept as an offset to the host's clock.
//! Left out: the alarm, periodic and update interrupts (IRQ8), which Linux emulates.

use std::sync::{Mutex, MutexGuard};

use super::Clock;
use crate::bus::{Effect, Region};

/// First of the two ports.
pub const PORTS: u64 = 0x70;
/// How many ports there are.
pub const PORTS_LEN: u64 = 2;

const LEN: usize = 128;
const STATUS_A: usize = 0x0a;
const STATUS_B: usize = 0x0b;
const STATUS_C: usize = 0x0c;
const STATUS_D: usize = 0x0d;
/// Where the century is kept; the FADT names it.
pub const CENTURY: usize = 0x32;
const B_SET: u8 = 1 << 7;
const B_BINARY: u8 = 1 << 2;
const B_24_HOURS: u8 = 1 << 1;
const HOUR_PM: u8 = 1 << 7;
const DAY_SECONDS: i64 = 86_400;

/// The clock and its memory.
pub struct Cmos {
    state: Mutex<State>,
}

struct State {
    clock: Clock,
    index: usize,
    bytes: [u8; LEN],
    /// Guest time minus host time, in seconds.
    offset_s: i64,
    /// While the guest holds SET, or has written part of a time: what it has written.
    setting: Option<Time>,
}

/// A date and time of day.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Time {
    year: i64,
    month: i64,
    day: i64,
    hour: i64,
    minute: i64,
    second: i64,
}

impl Cmos {
    /// A clock that follows `clock` (time since 1970), on a board with this memory and CPUs.
    pub fn new(clock: Clock, low_ram_bytes: u64, high_ram_bytes: u64, cpus: u32) -> Cmos {
        let mut bytes = [0; LEN];
        bytes[STATUS_A] = 0x26;
        bytes[STATUS_B] = B_24_HOURS;
        bytes[STATUS_D] = 1 << 7;
        // Conventional memory, 640 KiB.
        bytes[0x15..0x17].copy_from_slice(&640u16.to_le_bytes());
        let extended_kib = (low_ram_bytes.saturating_sub(1 << 20) >> 10).min(0xffff) as u16;
        bytes[0x17..0x19].copy_from_slice(&extended_kib.to_le_bytes());
        bytes[0x30..0x32].copy_from_slice(&extended_kib.to_le_bytes());
        let above_16m = (low_ram_bytes.saturating_sub(16 << 20) >> 16).min(0xffff) as u16;
        bytes[0x34..0x36].copy_from_slice(&above_16m.to_le_bytes());
        bytes[0x5b..0x5e].copy_from_slice(&(high_ram_bytes >> 16).to_le_bytes()[..3]);
        bytes[0x5f] = cpus.saturating_sub(1).min(0xff) as u8;
        Cmos { state: Mutex::new(State { clock, index: 0, bytes, offset_s: 0, setting: None }) }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("the clock's lock is never held in a panic")
    }
}

impl Region for Cmos {
    fn read(&self, offset: u64, data: &mut [u8]) {
        let mut state = self.lock();
        for (byte, port) in data.iter_mut().zip(offset..) {
            *byte = if port == 1 { state.read() } else { 0xff };
        }
    }

    fn write(&self, offset: u64, data: &[u8]) -> Effect {
        let mut state = self.lock();
        for (byte, port) in data.iter().zip(offset..) {
            match port {
                // Bit 7 masks NMIs, which nothing here sends.
                0 => state.index = usize::from(byte & 0x7f),
                1 => state.write(*byte),
                _ => {}
            }
        }
        Effect::None
    }
}

impl State {
    fn read(&mut self) -> u8 {
        let time = || self.setting.unwrap_or_else(|| Time::from_unix(self.now()));
        match self.index {
            0x00 => self.encode(time().second),
            0x02 => self.encode(time().minute),
            0x04 => self.encode_hour(time().hour),
            // 1970-01-01 was a Thursday; Sunday is 1.
            0x06 => self.encode((time().days() + 4).rem_euclid(7) + 1),
            0x07 => self.encode(time().day),
            0x08 => self.encode(time().month),
            0x09 => self.encode(time().year.rem_euclid(100)),
            CENTURY => self.encode(time().year.div_euclid(100)),
            STATUS_C => std::mem::take(&mut self.bytes[STATUS_C]),
            index => self.bytes[index],
        }
    }

    fn write(&mut self, value: u8) {
        let number = self.decode(value);
        let mut time = self.setting.unwrap_or_else(|| Time::from_unix(self.now()));
        match self.index {
            0x00 => time.second = number,
            0x02 => time.minute = number,
            0x04 => time.hour = self.decode_hour(value),
            0x06 => return,
            0x07 => time.day = number,
            0x08 => time.month = number,
            0x09 => time.year = time.year.div_euclid(100) * 100 + number,
            CENTURY => time.year = number * 100 + time.year.rem_euclid(100),
            STATUS_A => {
                self.bytes[STATUS_A] = value & 0x7f;
                return;
            }
            STATUS_B => {
                self.bytes[STATUS_B] = value;
                self.take_set_bit();
                return;
            }
            STATUS_C | STATUS_D => return,
            index => {
                self.bytes[index] = value;
                return;
            }
        }
        self.setting = Some(time);
        self.take_set_bit();
    }

    /// Time written under SET takes effect together, when SET is cleared.
    fn take_set_bit(&mut self) {
        if self.bytes[STATUS_B] & B_SET == 0
            && let Some(time) = self.setting.take()
        {
            self.offset_s = time.unix() - self.host_s();
        }
    }

    fn now(&self) -> i64 {
        self.host_s() + self.offset_s
    }

    fn host_s(&self) -> i64 {
        i64::try_from((self.clock)().as_secs()).unwrap_or(i64::MAX / 2)
    }

    fn encode(&self, number: i64) -> u8 {
        let number = number.clamp(0, 99) as u8;
        if self.bytes[STATUS_B] & B_BINARY != 0 {
            number
        } else {
            ((number / 10) << 4) | (number % 10)
        }
    }

    fn decode(&self, value: u8) -> i64 {
        let number = if self.bytes[STATUS_B] & B_BINARY != 0 {
            value
        } else {
            (value >> 4).saturating_mul(10).saturating_add(value & 0xf)
        };
        i64::from(number)
    }

    fn encode_hour(&self, hour: i64) -> u8 {
        if self.bytes[STATUS_B] & B_24_HOURS != 0 {
            return self.encode(hour);
        }
        let pm = if hour >= 12 { HOUR_PM } else { 0 };
        self.encode((hour + 11) % 12 + 1) | pm
    }

    fn decode_hour(&self, value: u8) -> i64 {
        if self.bytes[STATUS_B] & B_24_HOURS != 0 {
            return self.decode(value);
        }
        let pm = if value & HOUR_PM != 0 { 12 } else { 0 };
        self.decode(value & !HOUR_PM) % 12 + pm
    }
}

impl Time {
    /// Seconds since 1970 to a date of the proleptic Gregorian calendar.
    fn from_unix(seconds: i64) -> Time {
        let days = seconds.div_euclid(DAY_SECONDS);
        let of_day = seconds.rem_euclid(DAY_SECONDS);
        // Counted from 0000-03-01, leap days fall at the end of a year, and months have a formula.
        let shifted = days + 719_468;
        let era = shifted.div_euclid(146_097);
        let day_of_era = shifted.rem_euclid(146_097);
        let year_of_era =
            (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let month_from_march = (5 * day_of_year + 2) / 153;
        let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
        Time {
            year: era * 400 + year_of_era + i64::from(month <= 2),
            month,
            day: day_of_year - (153 * month_from_march + 2) / 5 + 1,
            hour: of_day / 3600,
            minute: of_day / 60 % 60,
            second: of_day % 60,
        }
    }

    fn days(&self) -> i64 {
        let year = if self.month <= 2 { self.year - 1 } else { self.year };
        let era = year.div_euclid(400);
        let year_of_era = year.rem_euclid(400);
        let month_from_march = (self.month + 9).rem_euclid(12);
        let day_of_year = (153 * month_from_march + 2) / 5 + self.day - 1;
        let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
        era * 146_097 + day_of_era - 719_468
    }

    fn unix(&self) -> i64 {
        self.days() * DAY_SECONDS + self.hour * 3600 + self.minute * 60 + self.second
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::time::Duration;

    use super::*;

    fn at(unix: u64) -> (Cmos, Arc<AtomicU64>) {
        let now = Arc::new(AtomicU64::new(unix));
        let clock = now.clone();
        let clock = Box::new(move || Duration::from_secs(clock.load(Ordering::Relaxed)));
        (Cmos::new(clock, 2 << 30, 1 << 30, 4), now)
    }

    fn get(cmos: &Cmos, index: u8) -> u8 {
        let mut data = [0];
        cmos.write(0, &[index]);
        cmos.read(1, &mut data);
        data[0]
    }

    fn put(cmos: &Cmos, index: u8, value: u8) {
        cmos.write(0, &[index]);
        cmos.write(1, &[value]);
    }

    fn fields(cmos: &Cmos) -> [u8; 8] {
        [CENTURY as u8, 9, 8, 7, 6, 4, 2, 0].map(|index| get(cmos, index))
    }

    #[test]
    fn the_time_is_read_in_bcd() {
        // 2024-02-29 23:59:58 UTC, a Thursday.
        let (cmos, now) = at(1_709_251_198);
        assert_eq!(fields(&cmos), [0x20, 0x24, 0x02, 0x29, 0x05, 0x23, 0x59, 0x58]);
        now.fetch_add(2, Ordering::Relaxed);
        assert_eq!(fields(&cmos), [0x20, 0x24, 0x03, 0x01, 0x06, 0x00, 0x00, 0x00]);
    }

    #[test]
    fn hours_follow_the_mode() {
        let (cmos, now) = at(0);
        put(&cmos, STATUS_B as u8, B_BINARY);
        assert_eq!(get(&cmos, 4), 12);
        now.store(13 * 3600, Ordering::Relaxed);
        assert_eq!(get(&cmos, 4), 1 | HOUR_PM);
        put(&cmos, STATUS_B as u8, B_BINARY | B_24_HOURS);
        assert_eq!(get(&cmos, 4), 13);
    }

    #[test]
    fn what_the_guest_sets_is_kept_and_runs_on() {
        let (cmos, now) = at(1_709_251_198);
        put(&cmos, STATUS_B as u8, B_SET | B_24_HOURS);
        for (index, value) in [(9, 0x99), (8, 0x12), (7, 0x31), (4, 0x22), (2, 0), (0, 0)] {
            put(&cmos, index, value);
        }
        put(&cmos, CENTURY as u8, 0x19);
        put(&cmos, STATUS_B as u8, B_24_HOURS);
        now.fetch_add(3600, Ordering::Relaxed);
        assert_eq!(fields(&cmos)[..6], [0x19, 0x99, 0x12, 0x31, 0x06, 0x23]);
    }

    #[test]
    fn dates_survive_the_round_trip() {
        for day in (-200_000..200_000).step_by(37) {
            let time = Time::from_unix(day * DAY_SECONDS + 12_345);
            assert_eq!(time.unix(), day * DAY_SECONDS + 12_345, "{time:?}");
        }
    }

    #[test]
    fn memory_sizes_and_cpus_are_where_firmware_looks() {
        let (cmos, _) = at(0);
        let above_16m = u16::from_le_bytes([get(&cmos, 0x34), get(&cmos, 0x35)]);
        assert_eq!(u64::from(above_16m) << 16, (2 << 30) - (16 << 20));
        assert_eq!([0x5b, 0x5c, 0x5d].map(|i| get(&cmos, i)), [0, 0x40, 0]);
        assert_eq!(get(&cmos, 0x5f), 3);
    }

    #[test]
    fn any_write_is_harmless() {
        let (cmos, _) = at(1_709_251_198);
        for index in 0..=0xff {
            for value in [0x00, 0x7f, 0x80, 0xff] {
                put(&cmos, index, value);
                get(&cmos, index);
            }
        }
        cmos.write(0, &[0xff; 8]);
        fields(&cmos);
    }
}
