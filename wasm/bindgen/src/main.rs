//! `bindgen --target web|nodejs --out-dir DIR --out-name NAME INPUT.wasm`: the JavaScript glue of
//! a compiled module.

use std::process::ExitCode;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match run(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(what) => {
            eprintln!("error: {what}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &[String]) -> Result<(), String> {
    let option = |name: &str| {
        let at = args.iter().position(|arg| arg == name);
        at.and_then(|at| args.get(at + 1)).ok_or_else(|| format!("{name} is missing"))
    };
    let input = args.last().ok_or("the module is missing")?;
    let (name, out) = (option("--out-name")?, option("--out-dir")?);
    let mut bindgen = wasm_bindgen_cli_support::Bindgen::new();
    bindgen.input_path(input).out_name(name).typescript(true);
    bindgen.remove_name_section(true).remove_producers_section(true);
    let set = match option("--target")?.as_str() {
        // Whoever starts the engine says where the module is.
        "web" => bindgen.omit_default_module_path(true).web(true),
        "nodejs" => bindgen.nodejs(true),
        other => return Err(format!("unknown target {other}")),
    };
    set.and_then(|bindgen| bindgen.generate(out)).map_err(|e| format!("{e:#}"))
}
