//! The other end: keypad and reader, the originating half of DUKPT, faults on demand.
