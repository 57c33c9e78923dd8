//! The decoder on the CPU.
