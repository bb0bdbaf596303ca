//! A call of an exported function: what `kubectl exec POD -- add 1 2` means where there is no shell.
//!
//! Every call has an instance of its own, within the container's limits. Arguments and results of components are
//! written in WAVE, the text form of the component model's values; a string needs no quotes. Modules take numbers.
use crate::code::Program;
use crate::ending::{Ending, TRAP_CODE, ending_of};
use crate::guest::{Guest, Streams};
use crate::host::Host;
use shim::{Error, Input, Output, Stream};
use std::sync::Arc;
use std::time::Duration;
use wasmtime::component::types::{ComponentFunc, ComponentItem};
use wasmtime::component::{Component, ComponentExportIndex, InstancePre, Type, Val};
use wasmtime::{Engine, ExternType, FuncType, ValType};

/// The code of a call whose result is an error, as a command's.
const FAILED: i32 = 1;

/// Calls `args[0]` with the other arguments and writes its results, a line each, to `output`; gives the exit code.
pub(crate) async fn call_export(
    host: &Host,
    program: &Program,
    guest: &Arc<Guest>,
    args: &[String],
    timeout: Duration,
    stdin: Option<Input>,
    output: Arc<dyn Output>,
) -> Result<i32, Error> {
    let [name, args @ ..] = args else {
        return Err(Error::InvalidSpec("there is no function to call".to_owned()));
    };
    let call = plan_call(program, &host.engine, name, args)?;
    let _running = host.ticker.running();
    let streams = guest.streams_to(stdin, &output);
    let instance_of = guest.clone();
    let calling = guest.meter.run_call(None, async move { call.run(&instance_of, streams).await });
    let called = tokio::time::timeout(timeout, calling)
        .await
        .map_err(|_| Error::Unavailable(format!("{name} did not end within {timeout:?}")))?;
    match called {
        Ok(results) => {
            for line in &results.lines {
                output.write(Stream::Stdout, format!("{line}\n").as_bytes());
            }
            Ok(if results.failed { FAILED } else { 0 })
        }
        Err(error) => {
            let ending = ending_of(&error);
            if let Some(line) = ending.log_line() {
                output.write(Stream::Stderr, line.as_bytes());
            }
            Ok(match ending {
                Ending::Exited(code) => code & 0xff,
                _ => TRAP_CODE,
            })
        }
    }
}

struct Results {
    lines: Vec<String>,
    failed: bool,
}

/// A call whose arguments fit.
enum Call {
    Component {
        pre: InstancePre<crate::guest::ComponentState>,
        function: ComponentExportIndex,
        args: Vec<Val>,
        results: usize,
    },
    Module {
        pre: wasmtime::InstancePre<crate::guest::ModuleState>,
        function: String,
        args: Vec<wasmtime::Val>,
        results: usize,
    },
}

fn plan_call(program: &Program, engine: &Engine, name: &str, args: &[String]) -> Result<Call, Error> {
    let Some(pre) = program.component() else {
        let Program::Module(pre) = program else {
            return Err(Error::InvalidSpec("this program exports no functions".to_owned()));
        };
        let functions = module_functions(pre.module());
        let Some((_, ty)) = functions.iter().find(|(known, _)| *known == name) else {
            return Err(unknown(name, functions.iter().map(|(name, ty)| described_core(name, ty))));
        };
        let args = core_args(name, ty, args)?;
        return Ok(Call::Module {
            pre: pre.clone(),
            function: name.to_owned(),
            args,
            results: ty.results().len(),
        });
    };
    let functions = component_functions(pre.component(), engine);
    let Some(function) = find(&functions, name) else {
        return Err(unknown(name, functions.iter().map(Exported::described)));
    };
    let args = wave_args(&function.name(), &function.ty, args)?;
    let results = function.ty.results().len();
    Ok(Call::Component { pre: pre.clone(), function: function.index, args, results })
}

impl Call {
    async fn run(self, guest: &Guest, streams: Streams) -> wasmtime::Result<Results> {
        match self {
            Self::Component { pre, function, args, results } => {
                let mut store = guest.component_store_with(pre.engine(), streams)?;
                let instance = pre.instantiate_async(&mut store).await?;
                let Some(function) = instance.get_func(&mut store, function) else {
                    wasmtime::bail!("the function is not exported by its instance");
                };
                let mut values = vec![Val::Bool(false); results];
                function.call_async(&mut store, &args, &mut values).await?;
                let failed = matches!(values.as_slice(), [Val::Result(Err(_))]);
                let lines = values.iter().map(Val::to_wave).collect::<wasmtime::Result<_>>()?;
                Ok(Results { lines, failed })
            }
            Self::Module { pre, function, args, results } => {
                let mut store = guest.module_store_with(pre.module().engine(), streams)?;
                let instance = pre.instantiate_async(&mut store).await?;
                if let Ok(initialize) = instance.get_typed_func::<(), ()>(&mut store, "_initialize") {
                    initialize.call_async(&mut store, ()).await?;
                }
                let Some(function) = instance.get_func(&mut store, &function) else {
                    wasmtime::bail!("the function is not exported by its instance");
                };
                let mut values = vec![wasmtime::Val::I32(0); results];
                function.call_async(&mut store, &args, &mut values).await?;
                let lines = values.iter().map(number).collect();
                Ok(Results { lines, failed: false })
            }
        }
    }
}

/// A function that a component exports, by itself or in an interface.
struct Exported {
    interface: Option<String>,
    function: String,
    index: ComponentExportIndex,
    ty: ComponentFunc,
}

impl Exported {
    fn name(&self) -> String {
        match &self.interface {
            Some(interface) => format!("{interface}#{}", self.function),
            None => self.function.clone(),
        }
    }

    fn described(&self) -> String {
        let params: Vec<String> =
            self.ty.params().map(|(name, ty)| format!("{name}: {}", type_name(&ty))).collect();
        format!("{}({})", self.name(), params.join(", "))
    }
}

/// WASI's own entry points are called by the node, not by hand.
fn component_functions(component: &Component, engine: &Engine) -> Vec<Exported> {
    let mut functions = Vec::new();
    for (name, export) in component.component_type().exports(engine) {
        if name.starts_with("wasi:") {
            continue;
        }
        let Some(index) = component.get_export_index(None, name) else { continue };
        match export.ty {
            ComponentItem::ComponentFunc(ty) => {
                functions.push(Exported { interface: None, function: name.to_owned(), index, ty });
            }
            ComponentItem::ComponentInstance(instance) => {
                for (function, export) in instance.exports(engine) {
                    let ComponentItem::ComponentFunc(ty) = export.ty else { continue };
                    let Some(index) = component.get_export_index(Some(&index), function) else { continue };
                    functions.push(Exported {
                        interface: Some(name.to_owned()),
                        function: function.to_owned(),
                        index,
                        ty,
                    });
                }
            }
            _ => {}
        }
    }
    functions
}

/// By its whole name, or by its last part where only one has it.
fn find<'a>(functions: &'a [Exported], name: &str) -> Option<&'a Exported> {
    if let Some(exact) = functions.iter().find(|function| function.name() == name) {
        return Some(exact);
    }
    let mut same = functions.iter().filter(|function| function.function == name);
    same.next().filter(|_| same.next().is_none())
}

fn module_functions(module: &wasmtime::Module) -> Vec<(&str, FuncType)> {
    let entry = |name: &str| name.starts_with('_') || name.starts_with("cabi_");
    let functions = module.exports().filter_map(|export| match export.ty() {
        ExternType::Func(ty) if !entry(export.name()) => Some((export.name(), ty)),
        _ => None,
    });
    functions.collect()
}

fn unknown(name: &str, known: impl Iterator<Item = String>) -> Error {
    let known: Vec<String> = known.collect();
    let exported = if known.is_empty() {
        "this one exports no function to call".to_owned()
    } else {
        format!("this one exports {}", known.join(", "))
    };
    Error::InvalidSpec(format!(
        "cannot run {name}: a WebAssembly container holds one program and no shell, only its exported functions can be \
         called; {exported}"
    ))
}

fn wrong_count(name: &str, takes: usize, given: usize) -> Error {
    Error::InvalidSpec(format!("{name} takes {takes} arguments, {given} were given"))
}

fn wave_args(name: &str, ty: &ComponentFunc, args: &[String]) -> Result<Vec<Val>, Error> {
    if ty.params().len() != args.len() {
        return Err(wrong_count(name, ty.params().len(), args.len()));
    }
    let parse = |((param, ty), text): ((&str, Type), &String)| match (&ty, Val::from_wave(&ty, text)) {
        (_, Ok(value)) => Ok(value),
        (Type::String, Err(_)) => Ok(Val::String(text.clone())),
        (_, Err(e)) => Err(Error::InvalidSpec(format!(
            "{name}: {text:?} is not a {} for {param}, in WAVE: {e:#}",
            type_name(&ty)
        ))),
    };
    ty.params().zip(args).map(parse).collect()
}

fn core_args(name: &str, ty: &FuncType, args: &[String]) -> Result<Vec<wasmtime::Val>, Error> {
    if ty.params().len() != args.len() {
        return Err(wrong_count(name, ty.params().len(), args.len()));
    }
    let parse = |(ty, text): (ValType, &String)| {
        core_value(&ty, text)
            .ok_or_else(|| Error::InvalidSpec(format!("{name}: {text:?} is not a value of type {ty}")))
    };
    ty.params().zip(args).map(parse).collect()
}

/// Signed or unsigned, as it is written.
fn core_value(ty: &ValType, text: &str) -> Option<wasmtime::Val> {
    Some(match ty {
        ValType::I32 => {
            wasmtime::Val::I32(text.parse().or_else(|_| text.parse().map(u32::cast_signed)).ok()?)
        }
        ValType::I64 => {
            wasmtime::Val::I64(text.parse().or_else(|_| text.parse().map(u64::cast_signed)).ok()?)
        }
        ValType::F32 => wasmtime::Val::F32(text.parse::<f32>().ok()?.to_bits()),
        ValType::F64 => wasmtime::Val::F64(text.parse::<f64>().ok()?.to_bits()),
        ValType::V128 | ValType::Ref(_) => return None,
    })
}

fn number(value: &wasmtime::Val) -> String {
    match value {
        wasmtime::Val::I32(n) => n.to_string(),
        wasmtime::Val::I64(n) => n.to_string(),
        wasmtime::Val::F32(bits) => f32::from_bits(*bits).to_string(),
        wasmtime::Val::F64(bits) => f64::from_bits(*bits).to_string(),
        other => format!("{other:?}"),
    }
}

fn described_core(name: &str, ty: &FuncType) -> String {
    let params: Vec<String> = ty.params().map(|ty| ty.to_string()).collect();
    format!("{name}({})", params.join(", "))
}

fn type_name(ty: &Type) -> String {
    wasmtime::component::wasm_wave::wasm::DisplayType(ty).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_taken_signed_or_unsigned_and_nothing_else() {
        assert_eq!(core_value(&ValType::I32, "-1").unwrap().unwrap_i32(), -1);
        assert_eq!(core_value(&ValType::I32, "4294967295").unwrap().unwrap_i32(), -1);
        assert_eq!(core_value(&ValType::F64, "1.5").unwrap().unwrap_f64(), 1.5);
        for (ty, text) in
            [(ValType::I32, "x"), (ValType::I32, "4294967296"), (ValType::I64, "1.5"), (ValType::V128, "1")]
        {
            assert!(core_value(&ty, text).is_none(), "{text}");
        }
    }
}
