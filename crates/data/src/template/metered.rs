//! Rendering with a bound on what lists and maps unfold to.
//!
//! minijinja's fuel pays for instructions, for text, and for items that are looked at. It does not see two things: a
//! list that is joined to itself stays two references until the thirty-third time, and is then written out; and a list
//! of itself twice, fifty times over, takes no memory until something compares it or writes it as text. So each
//! instruction that can make a list or a map is followed by a call that measures what it made, shared parts counted as
//! often as they appear, and refuses what is too large. Then nothing that is made of it can be.

use minijinja::machinery::{
    Instruction, Instructions, eval, get_compiled_template, make_string_output,
};
use minijinja::value::ValueKind;
use minijinja::{AutoEscape, Environment, Error, ErrorKind, State, Value};

/// What a list or a map may come to, as text: as much as the text of a row may.
const MAX_UNFOLDED_BYTES: usize = super::MAX_RENDERED_BYTES;
/// What each value in it counts for, beside its characters: 32,768 values are the most.
const VALUE_BYTES: usize = 256;
/// Lists within lists.
const MAX_NESTING: usize = 64;
/// Measured bytes that one unit of fuel pays for: looking at a value costs as much as an instruction.
const BYTES_OF_FUEL: usize = VALUE_BYTES;

/// Two functions that no template can name, since they are no identifiers.
const MADE: &str = "list or map made";
const STORED: &str = "value stored";

/// Adds what [`render`] calls.
pub(super) fn add_to(environment: &mut Environment<'_>) {
    environment.add_function(MADE, |state: &State<'_, '_>, value: Value| {
        measure(state, &value).map(|()| value)
    });
    environment.add_function(STORED, |state: &State<'_, '_>, value: Value| {
        // A namespace in itself would have no end.
        match is_namespace(&value) {
            true => Err(refused("a namespace cannot be stored in another value")),
            false => measure(state, &value).map(|()| value),
        }
    });
}

/// The text of a template.
pub(super) fn render(
    environment: &Environment<'_>,
    name: &str,
    variables: Value,
) -> Result<String, Error> {
    let template = environment.get_template(name)?;
    let compiled = get_compiled_template(&template);
    let instructions = metered(&compiled.instructions);
    let blocks = compiled.blocks.iter();
    let blocks = blocks
        .map(|(name, block)| (*name, metered(block)))
        .collect();
    let mut text = String::new();
    let mut out = make_string_output(&mut text);
    eval(
        environment,
        &instructions,
        variables,
        &blocks,
        &mut out,
        AutoEscape::None,
    )?;
    drop(out);
    Ok(text)
}

/// The same instructions with the calls in between; jumps lead to where their targets are now.
fn metered<'source>(plain: &Instructions<'source>) -> Instructions<'source> {
    let all: Vec<&Instruction<'source>> = (0..).map_while(|at| plain.get(at)).collect();
    let mut places = Vec::with_capacity(all.len() + 1);
    let mut place = 0;
    for instruction in &all {
        places.push(place);
        place += 1 + before(instruction).len() as u32 + after(instruction).len() as u32;
    }
    places.push(place);
    let mut out = Instructions::new(plain.name(), plain.source());
    for (at, instruction) in (0..).zip(&all) {
        let moved = moved((*instruction).clone(), &places);
        let parts = before(instruction)
            .into_iter()
            .chain([moved])
            .chain(after(instruction));
        for part in parts {
            match plain.get_line(at).and_then(|line| u16::try_from(line).ok()) {
                Some(line) => out.add_with_line(part, line),
                None => out.add(part),
            };
        }
    }
    out
}

fn before<'source>(instruction: &Instruction<'_>) -> Vec<Instruction<'source>> {
    match instruction {
        // The namespace lies above the value.
        Instruction::SetAttr(_) => vec![
            Instruction::Swap,
            Instruction::CallFunction(STORED, Some(1)),
            Instruction::Swap,
        ],
        _ => Vec::new(),
    }
}

fn after<'source>(instruction: &Instruction<'_>) -> Vec<Instruction<'source>> {
    match instruction {
        Instruction::BuildList(_)
        | Instruction::BuildMap(_)
        | Instruction::BuildTuple(_)
        | Instruction::Add
        | Instruction::Mul
        | Instruction::Slice
        | Instruction::ApplyFilter(..)
        | Instruction::CallFunction(..)
        | Instruction::CallMethod(..)
        | Instruction::CallObject(_) => vec![Instruction::CallFunction(MADE, Some(1))],
        _ => Vec::new(),
    }
}

fn moved<'source>(instruction: Instruction<'source>, places: &[u32]) -> Instruction<'source> {
    let place = |target: u32| places.get(target as usize).copied().unwrap_or(target);
    match instruction {
        Instruction::Iterate(target) => Instruction::Iterate(place(target)),
        Instruction::Jump(target) => Instruction::Jump(place(target)),
        Instruction::JumpIfFalse(target) => Instruction::JumpIfFalse(place(target)),
        Instruction::JumpIfFalseOrPop(target) => Instruction::JumpIfFalseOrPop(place(target)),
        Instruction::JumpIfTrueOrPop(target) => Instruction::JumpIfTrueOrPop(place(target)),
        Instruction::BuildMacro(name, target, flags) => {
            Instruction::BuildMacro(name, place(target), flags)
        }
        other => other,
    }
}

fn measure(state: &State<'_, '_>, value: &Value) -> Result<(), Error> {
    if !is_container(value) {
        return Ok(());
    }
    let mut left = MAX_UNFOLDED_BYTES;
    spend(value, 0, &mut left)?;
    state.consume_fuel(((MAX_UNFOLDED_BYTES - left) / BYTES_OF_FUEL) as u64)
}

fn is_container(value: &Value) -> bool {
    matches!(
        value.kind(),
        ValueKind::Seq | ValueKind::Map | ValueKind::Iterable
    )
}

fn is_namespace(value: &Value) -> bool {
    let object = value.as_object();
    object.is_some_and(|object| object.type_name().ends_with("::Namespace"))
}

fn spend(value: &Value, depth: usize, left: &mut usize) -> Result<(), Error> {
    let own = VALUE_BYTES + value.as_str().map_or(0, str::len);
    *left = left.checked_sub(own).ok_or_else(|| {
        refused(&format!(
            "a list or a map comes to more than {MAX_UNFOLDED_BYTES} bytes"
        ))
    })?;
    if !is_container(value) {
        return Ok(());
    }
    if depth == MAX_NESTING {
        return Err(refused(&format!(
            "lists and maps are nested more than {MAX_NESTING} deep"
        )));
    }
    if depth > 0 && is_namespace(value) {
        return Err(refused("a namespace cannot be stored in another value"));
    }
    let is_map = value.kind() == ValueKind::Map;
    for item in value.try_iter()? {
        spend(&item, depth + 1, left)?;
        if is_map {
            spend(&value.get_item(&item)?, depth + 1, left)?;
        }
    }
    Ok(())
}

fn refused(what: &str) -> Error {
    Error::new(ErrorKind::InvalidOperation, what.to_owned())
}
