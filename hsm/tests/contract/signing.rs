//! The audit key and the generator.

use warifu_hsm::{Signature, verify_signature};

use crate::subject;

#[test]
fn a_signature_verifies_without_the_hsm_and_no_change_does() {
    for subject in subject::backends() {
        let (mut one, mut two) = (subject.session(), subject.session());
        let public_key = one.audit_public_key().unwrap();
        assert!(two.audit_public_key().unwrap() == public_key);
        for message in [&b""[..], b"x", &[7; 1000]] {
            let signature = two.sign(message).unwrap();
            assert!(verify_signature(&public_key, message, &signature), "{}", subject.name);
            assert!(!verify_signature(&public_key, b"another", &signature));
            for at in 0..64 {
                let mut changed = signature.0;
                changed[at] ^= 1;
                assert!(!verify_signature(&public_key, message, &Signature(changed)));
            }
        }
    }
}

#[test]
fn random_bytes_fill_any_buffer_and_do_not_repeat() {
    for subject in subject::backends() {
        let mut hsm = subject.session();
        let (mut one, mut two) = ([0; 64], [0; 64]);
        hsm.random(&mut one).unwrap();
        hsm.random(&mut two).unwrap();
        assert!(one != two && one != [0; 64], "{}", subject.name);
        hsm.random(&mut []).unwrap();
    }
}
