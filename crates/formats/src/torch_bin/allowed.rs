//! What a pickle may ask for by name. Opcodes that it may use are those of `Machine::step`.

use super::TorchFault;
use crate::dtype::Dtype;

/// The names that a pickle may ask for.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Global {
    RebuildTensor,
    RebuildParameter,
    OrderedDict,
    StorageOf(Dtype),
}

impl Global {
    pub(super) fn of(module: &str, name: &str) -> Result<Self, TorchFault> {
        let storage = match (module, name) {
            ("torch._utils", "_rebuild_tensor_v2") => return Ok(Self::RebuildTensor),
            ("torch._utils", "_rebuild_parameter") => return Ok(Self::RebuildParameter),
            ("collections", "OrderedDict") => return Ok(Self::OrderedDict),
            ("torch", name) => name.strip_suffix("Storage"),
            _ => None,
        };
        let dtype = match storage {
            Some("Float") => Dtype::F32,
            Some("Half") => Dtype::F16,
            Some("BFloat16") => Dtype::BF16,
            Some("Double") => Dtype::F64,
            Some("Long") => Dtype::I64,
            Some("Int") => Dtype::I32,
            Some("Short") => Dtype::I16,
            Some("Char") => Dtype::I8,
            Some("Byte") => Dtype::U8,
            Some("Bool") => Dtype::BOOL,
            Some("ComplexFloat") => Dtype::C64,
            _ => {
                let asked = format!("{module}.{name}");
                return Err(TorchFault::Global(asked.chars().take(128).collect()));
            }
        };
        Ok(Self::StorageOf(dtype))
    }
}

/// Names of opcodes for messages: those that a pickle could do harm with, and the common rest.
pub(super) fn opcode_name(opcode: u8) -> &'static str {
    match opcode {
        b'i' => "INST",
        b'o' => "OBJ",
        0x81 => "NEWOBJ",
        0x92 => "NEWOBJ_EX",
        0x82 => "EXT1",
        0x83 => "EXT2",
        0x84 => "EXT4",
        b'P' => "PERSID",
        b'p' => "PUT",
        b'g' => "GET",
        b'0' => "POP",
        b'1' => "POP_MARK",
        b'2' => "DUP",
        b'I' => "INT",
        b'L' => "LONG",
        0x8b => "LONG4",
        b'F' => "FLOAT",
        b'S' => "STRING",
        b'T' => "BINSTRING",
        b'U' => "SHORT_BINSTRING",
        b'V' => "UNICODE",
        b'd' => "DICT",
        b'l' => "LIST",
        b'B' => "BINBYTES",
        b'C' => "SHORT_BINBYTES",
        0x8d => "BINUNICODE8",
        0x8e => "BINBYTES8",
        0x8f => "EMPTY_SET",
        0x90 => "ADDITEMS",
        0x91 => "FROZENSET",
        0x96 => "BYTEARRAY8",
        _ => "unknown",
    }
}
