//! VNC authentication (RFC 6143 §7.2.2): the client enciphers sixteen bytes with DES, its key being
//! the password: eight bytes of it, filled up with zeros.

use des::Des;
use des::cipher::{BlockCipherEncrypt, KeyInit};

/// Bytes of a challenge.
pub const CHALLENGE: usize = 16;

/// What a client that knows `password` answers to `challenge`.
pub fn response(password: &[u8], challenge: &[u8; CHALLENGE]) -> Vec<u8> {
    let mut key = [0; 8];
    for (key, byte) in key.iter_mut().zip(password) {
        // Not in the RFC but in every program: the bits of each byte the other way round.
        *key = byte.reverse_bits();
    }
    let cipher = Des::new(&key.into());
    let mut answer = challenge.to_vec();
    for block in answer.chunks_exact_mut(8) {
        if let Ok(block) = block.try_into() {
            cipher.encrypt_block(block);
        }
    }
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_those_of_other_programs() {
        // Computed by OpenSSL: DES in ECB mode, the key being "password" with reversed bits.
        let challenge = std::array::from_fn(|n| n as u8);
        let hex: String =
            response(b"password", &challenge).iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(hex, "b866924125c8eebb9debc1db61c538e2");
        assert_eq!(response(b"password and more", &challenge), response(b"password", &challenge));
        assert_ne!(response(b"passwor", &challenge), response(b"password", &challenge));
        assert_ne!(response(b"", &challenge), response(b"a", &challenge));
    }
}
