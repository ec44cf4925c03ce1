//! Removal of debug information from compiled BPF programs. bpf-linker derives BTF from it, which the kernel reads; nobody
//! reads the rest, which is three quarters of the file.

use anyhow::{Context, Result};
use object::{
    build::{
        ByteString,
        elf::{Builder, SectionData},
    },
    elf,
};

/// Returns the ELF file without its debug sections (DWARF).
///
/// # Errors
/// Returns an error if `object` is not a 64-bit ELF file.
pub fn without_debug_sections(object: &[u8]) -> Result<Vec<u8>> {
    let mut builder = Builder::read64(object).context("cannot parse the ELF file")?;
    for section in &mut builder.sections {
        section.delete = is_debug(&section.name);
    }
    builder.delete_orphans();
    // LLVM stores names of sections with those of symbols; the writer wants a section for them.
    let names = builder.sections.add();
    names.name = b".shstrtab"[..].into();
    names.sh_type = elf::SHT_STRTAB;
    names.sh_addralign = 1;
    names.data = SectionData::SectionString;
    let mut stripped = Vec::new();
    builder.write(&mut stripped).context("cannot write the ELF file")?;
    Ok(stripped)
}

/// Returns whether a section holds debug information or the relocations of some.
fn is_debug(name: &ByteString) -> bool {
    let name = name.as_slice();
    name.strip_prefix(b".rel").unwrap_or(name).starts_with(b".debug_")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_sections_and_their_relocations_go() {
        for name in [".debug_info", ".rel.debug_info", ".debug_str"] {
            assert!(is_debug(&name.as_bytes().into()), "{name}");
        }
        for name in ["xdp", ".text", ".rel.text", ".relxdp", ".BTF", ".BTF.ext", ".rel.BTF.ext", ".maps", ".symtab"] {
            assert!(!is_debug(&name.as_bytes().into()), "{name}");
        }
    }

    #[test]
    fn what_is_no_elf_file_is_refused() {
        assert!(without_debug_sections(b"no ELF file").is_err());
    }
}
