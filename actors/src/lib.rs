//! Who owns which state, and what they say to each other.
