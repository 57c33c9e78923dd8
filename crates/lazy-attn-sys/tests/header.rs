//! Asks the C compiler what `kernels/abi/lazy_kernels.h` says, and compares it with Rust.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use lazy_attn_sys::BlockLayout;
use lazy_attn_sys::abi::{CONSTANTS, STRUCTS};

const SHAPES: [(u32, u32); 3] = [(8, 64), (16, 128), (64, 256)];

/// A C program that prints one `name value` line for everything Rust knows, and one for every element of a block.
fn program() -> String {
    let mut body = String::new();
    let mut line = |name: &str, value: &str| {
        let _ = writeln!(body, "    printf(\"{name} %lld\\n\", (long long)({value}));");
    };
    for abi in STRUCTS {
        line(abi.name, &format!("sizeof({})", abi.name));
        line(&format!("{}:align", abi.name), &format!("_Alignof({})", abi.name));
        for (field, _) in abi.fields {
            line(&format!("{}.{field}", abi.name), &format!("offsetof({}, {field})", abi.name));
        }
    }
    for (name, _) in CONSTANTS {
        line(name, name);
    }
    for (rows, dim) in SHAPES {
        let _ = writeln!(
            body,
            "    for (unsigned r = 0; r < {rows}; r++) for (unsigned d = 0; d < {dim}; d++)\n        \
             printf(\"{rows}x{dim}:%u,%u %u\\n{rows}x{dim}_8:%u,%u %u\\n\", r, d, la_block_byte(r, d, {dim}), r, d, \
             la_block_byte_8(r, d, {dim}));"
        );
    }
    format!(
        "#include <stddef.h>\n#include <stdio.h>\n#include \"lazy_kernels.h\"\nint main(void) {{\n{body}    return 0;\n}}\n"
    )
}

fn expected() -> BTreeMap<String, i64> {
    let mut values = BTreeMap::new();
    for abi in STRUCTS {
        values.insert(abi.name.to_owned(), abi.size as i64);
        values.insert(format!("{}:align", abi.name), abi.align as i64);
        for (field, offset) in abi.fields {
            values.insert(format!("{}.{field}", abi.name), *offset as i64);
        }
    }
    values.extend(CONSTANTS.map(|(name, value)| (name.to_owned(), value)));
    for (rows, dim) in SHAPES {
        let layout = BlockLayout::new(rows, dim).unwrap();
        let bytes = BlockLayout::of_8_bit(rows, dim).unwrap();
        for (slot, element) in (0..rows).flat_map(|slot| (0..dim).map(move |element| (slot, element))) {
            let byte = i64::from(layout.byte(slot, element));
            values.insert(format!("{rows}x{dim}:{slot},{element}"), byte);
            let byte = i64::from(bytes.byte(slot, element));
            values.insert(format!("{rows}x{dim}_8:{slot},{element}"), byte);
        }
    }
    values
}

fn header_folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../kernels/abi")
}

/// Compiles `source` against the header; warnings are errors.
fn compile(source: &str, name: &str) -> (PathBuf, bool) {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let (file, program) = (folder.join(format!("{name}.c")), folder.join(name));
    std::fs::write(&file, source).unwrap();
    let mut cc = Command::new("cc");
    cc.args(["-std=c11", "-Wall", "-Wextra", "-Werror", "-I"]).arg(header_folder());
    let output = cc.arg(&file).arg("-o").arg(&program).output().unwrap();
    if !output.status.success() {
        eprintln!("{}", String::from_utf8_lossy(&output.stderr));
    }
    (program, output.status.success())
}

#[test]
fn the_header_and_rust_agree_on_every_size_offset_constant_and_byte() {
    let (program, compiled) = compile(&program(), "abi");
    assert!(compiled, "the header does not compile");
    let output = Command::new(program).output().unwrap();
    let printed = String::from_utf8(output.stdout).unwrap();
    let values = printed.lines().map(|line| line.rsplit_once(' ').unwrap());
    let values: BTreeMap<String, i64> = values.map(|(k, v)| (k.to_owned(), v.parse().unwrap())).collect();
    assert_eq!(values, expected());
}

#[test]
fn the_header_declares_no_struct_or_field_that_rust_does_not_know() {
    let header = std::fs::read_to_string(header_folder().join("lazy_kernels.h")).unwrap();
    let structs: Vec<&str> = header.split("typedef struct ").skip(1).collect();
    assert_eq!(structs.len(), STRUCTS.len());
    for (text, abi) in structs.iter().zip(STRUCTS) {
        let body = text.split_once('}').unwrap().0;
        // A declaration ends in the name, or in the length of an array behind it.
        let declarations = body.lines().filter_map(|line| line.split_once(';')?.0.split('[').next());
        let fields = declarations.filter_map(|text| text.rsplit([' ', '*']).next());
        let known: Vec<&str> = abi.fields.iter().map(|(name, _)| *name).collect();
        assert_eq!(fields.collect::<Vec<_>>(), known, "{}", abi.name);
    }
}

#[test]
fn the_asserts_of_the_header_stop_a_wrong_size() {
    let header = std::fs::read_to_string(header_folder().join("lazy_kernels.h")).unwrap();
    let broken = header.replacen("int32_t first_block;", "int64_t first_block;", 1);
    assert_ne!(header, broken, "the header has no field to break");
    let (_, compiled) = compile(&format!("{broken}\nint main(void) {{ return 0; }}\n"), "broken_abi");
    assert!(!compiled, "a struct of another size compiled");
}
