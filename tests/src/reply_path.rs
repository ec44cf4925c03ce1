//! The program at the client's end of a cable, and the object that it and the flood are in.

use anyhow::{Context, Result};
use aya::{
    Ebpf, EbpfLoader,
    programs::{Xdp, xdp::XdpMode},
};

/// The compiled BPF object with the flood programs.
pub static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/flood.bpf.o"));

/// An XDP program on the client's end of the cable, which drops frames for forged sources and passes everything else.
/// Without a program at the receiving end of an XDP_TX, veth delivers late, and has no queue that live frames could
/// have as their origin. It stays for the cable's lifetime: after detaching and attaching again, veth may not receive.
#[derive(Debug)]
pub struct ReplyPath {
    _ebpf: Ebpf,
}

impl ReplyPath {
    /// Attaches the program to `interface` of the current namespace.
    ///
    /// # Errors
    /// Returns an error if the kernel rejects it.
    pub fn attach(interface: &str) -> Result<Self> {
        Self::attach_program(interface, "reply_path")
    }

    /// Attaches another program of the object in its place, by its name.
    ///
    /// # Errors
    /// Returns an error if the kernel rejects it, or the object has no such program.
    pub fn attach_program(interface: &str, name: &str) -> Result<Self> {
        let mut ebpf = EbpfLoader::new().load(OBJECT).context("cannot load the reply path")?;
        let program = program(&mut ebpf, name)?;
        program.load()?;
        program.attach(interface, XdpMode::Driver).context("cannot prepare the client's interface for live frames")?;
        Ok(Self { _ebpf: ebpf })
    }
}

/// Returns a program of the object.
///
/// # Errors
/// Returns an error if the object has no program of this name.
pub fn program<'a>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut Xdp> {
    let program = ebpf.program_mut(name).with_context(|| format!("the flood has no program {name}"))?;
    Ok(program.try_into()?)
}
