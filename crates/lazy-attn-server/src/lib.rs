//! Edges over an engine handle: conversion between the `lazyattn.v1` API and the engine.
//!
//! Reading order:
//!
//! * [`convert`]: messages to engine requests (validated), engine events to messages.

pub mod convert;

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct ReadmeExamples;
