//! Commands on jobs, and those that start one.

use super::query::none;
use super::{BlockCommands, nothing, options_of, told};
use crate::format::{Backing, DataSource, FormatName, KeySource, OpenOptions};
use crate::graph::{ChildOptions, Claim, Graph, Node, Options, Permissions, Root};
use crate::image::{OptionSet, amend_encryption, amend_encryption_options, create};
use crate::io::{Access, BoxFuture, Device, Growing};
use crate::job::{Job, JobOptions, JobVerb};
use crate::monitor::{QmpError, QmpResult};
use crate::qapi::{
    BlockdevAmendOptions, BlockdevCreate, BlockdevCreateOptions, JobCancel, JobComplete,
    JobDismiss, JobFinalize, JobInfo, JobPause, JobResume, JobType, XBlockdevAmend, parse,
    schema::Qapi, validate,
};
use crate::{Error, ErrorKind, Result};
use alloc::borrow::ToOwned;
use alloc::boxed::Box;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use serde_json::{Map, Value};

type Arguments = Map<String, Value>;

/// Creation and amendment end by themselves, and stay to be looked at.
const OPTIONS: JobOptions = JobOptions { auto_finalize: true, auto_dismiss: false };

impl BlockCommands {
    pub(super) async fn query_jobs(&self, arguments: Arguments) -> QmpResult<Value> {
        none(arguments)?;
        let info = |job: &Arc<Job>| {
            let (current_progress, total_progress) = job.progress();
            JobInfo {
                id: job.id().to_owned(),
                r#type: job.kind(),
                status: job.status(),
                current_progress,
                total_progress,
                error: job.error(),
            }
        };
        let all: Vec<JobInfo> = self.jobs.all().iter().rev().map(info).collect();
        told(&all)
    }

    pub(super) async fn query_block_jobs(&self, arguments: Arguments) -> QmpResult<Value> {
        none(arguments)?;
        // No kind of job that has a node of its own is there yet.
        Ok(Value::Array(Vec::new()))
    }

    pub(super) async fn job_pause(&self, arguments: Arguments) -> QmpResult<Value> {
        let JobPause { id } = parse(arguments)?;
        self.ask(&id, JobVerb::Pause)
    }

    pub(super) async fn job_resume(&self, arguments: Arguments) -> QmpResult<Value> {
        let JobResume { id } = parse(arguments)?;
        self.ask(&id, JobVerb::Resume)
    }

    pub(super) async fn job_cancel(&self, arguments: Arguments) -> QmpResult<Value> {
        let JobCancel { id } = parse(arguments)?;
        self.ask(&id, JobVerb::Cancel)
    }

    pub(super) async fn job_complete(&self, arguments: Arguments) -> QmpResult<Value> {
        let JobComplete { id } = parse(arguments)?;
        self.ask(&id, JobVerb::Complete)
    }

    pub(super) async fn job_finalize(&self, arguments: Arguments) -> QmpResult<Value> {
        let JobFinalize { id } = parse(arguments)?;
        self.ask(&id, JobVerb::Finalize)
    }

    pub(super) async fn job_dismiss(&self, arguments: Arguments) -> QmpResult<Value> {
        let JobDismiss { id } = parse(arguments)?;
        self.jobs.dismiss(&id)?;
        self.amended.lock().retain(|(job, _)| *job != id);
        Ok(nothing())
    }

    fn ask(&self, id: &str, verb: JobVerb) -> QmpResult<Value> {
        self.jobs.find(id)?.ask(verb)?;
        Ok(nothing())
    }

    pub(super) async fn blockdev_create(&self, mut arguments: Arguments) -> QmpResult<Value> {
        validate(BlockdevCreate::schema(), &mut arguments)?;
        let (id, options) = id_and_options::<BlockdevCreateOptions>(&mut arguments)?;
        let driver = options.peek("driver").unwrap_or_default().to_owned();
        let is_image = matches!(driver.as_str(), "qcow2");
        if !is_image && !self.graph.protocols().creates(&driver) {
            return Err(QmpError::generic("Driver does not support blockdev-create"));
        }
        let graph = self.graph.clone();
        let work = move |job: Arc<Job>| {
            Box::pin(async move {
                job.set_progress(0, 1);
                let result = match is_image {
                    true => create_image(&graph, FormatName::Qcow2, options).await,
                    false => create_file(&graph, &driver, options).await,
                };
                job.set_progress(1, 1);
                result
            }) as BoxFuture<'static, Result<()>>
        };
        self.jobs.start(&id, JobType::Create, OPTIONS, work)?;
        Ok(nothing())
    }

    pub(super) async fn x_blockdev_amend(&self, mut arguments: Arguments) -> QmpResult<Value> {
        validate(XBlockdevAmend::schema(), &mut arguments)?;
        let name = arguments.get("node-name").and_then(Value::as_str).unwrap_or_default();
        let node = self.graph.lookup(None, Some(name))?;
        let (id, options) = id_and_options::<BlockdevAmendOptions>(&mut arguments)?;
        if options.peek("driver") != Some(node.driver()) {
            return Err(QmpError::generic(
                "x-blockdev-amend doesn't support changing the block driver",
            ));
        }
        if node.driver() != "qcow2" {
            return Err(QmpError::generic("Driver does not support x-blockdev-amend"));
        }
        let force = arguments.get("force").and_then(Value::as_bool).unwrap_or(false);
        let (graph, held) = (self.graph.clone(), node.hold());
        let work = move |job: Arc<Job>| {
            Box::pin(async move {
                job.set_progress(0, 1);
                let result = amend_image(&graph, &node, &options, force).await;
                job.set_progress(1, 1);
                result
            }) as BoxFuture<'static, Result<()>>
        };
        self.jobs.start(&id, JobType::Amend, OPTIONS, work)?;
        self.amended.lock().push((id, held));
        Ok(nothing())
    }
}

/// The name of the job and the options in dotted names, of arguments that fit the schema.
fn id_and_options<T: Qapi>(arguments: &mut Arguments) -> QmpResult<(String, Options)> {
    let id = arguments.get("job-id").and_then(Value::as_str).unwrap_or_default().to_owned();
    match arguments.remove("options") {
        Some(Value::Object(options)) => Ok((id, options_of::<T>(options)?)),
        _ => Err(QmpError::generic("Parameter 'options' is missing")),
    }
}

async fn create_file(graph: &Graph, driver: &str, mut options: Options) -> Result<()> {
    options.take_text("driver");
    graph.protocols().create(driver, options).await
}

/// Makes an image in a node that is there.
async fn create_image(graph: &Graph, format: FormatName, mut options: Options) -> Result<()> {
    options.take_text("driver");
    let mut set = OptionSet::new(format)?;
    let file = target(graph, options.take_child("file")?)?;
    let data = match options.take_child("data-file")? {
        ChildOptions::Absent | ChildOptions::Null => None,
        given => Some(target(graph, given)?),
    };
    if let Some(data) = &data {
        set.set("data_file", &data.filename())?;
    }
    while let Some(name) = options.first().map(ToOwned::to_owned) {
        let Some(value) = options.take_text(&name) else { continue };
        match name.as_str() {
            "version" => set.set("compat", if value == "v2" { "0.10" } else { "1.1" })?,
            _ => {
                set.set(&name.replace('-', "_").replace("encrypt.key_", "encrypt.key-"), &value)?
            }
        }
    }
    let image = set.image_with(&Ids(graph))?;
    let root = attach(graph, &file).await?;
    let result = async {
        let data_root = match &data {
            Some(data) => Some(attach(graph, data).await?),
            None => None,
        };
        let place = |root: &Arc<Root>| Arc::new(Growing::over(root.clone())) as Device;
        let device = place(&root);
        let data_device = data_root.as_ref().map(place);
        let runtime = &graph.env().runtime;
        let made = match create(runtime, &device, data_device.as_ref(), &image).await {
            Ok(()) => can_be_opened(graph, format, device, &file.filename()).await,
            // What was asked for is supported: it is the node that takes no writes.
            Err(error) if matches!(error.kind(), ErrorKind::Unsupported | ErrorKind::Denied) => {
                Err(Error::unsupported("Could not write qcow2 header: Operation not supported"))
            }
            failed => failed,
        };
        match data_root {
            Some(root) => made.and(graph.detach(&root).await),
            None => made,
        }
    };
    let result = result.await;
    result.and(graph.detach(&root).await)
}

async fn amend_image(
    graph: &Graph,
    node: &Arc<Node>,
    options: &Options,
    force: bool,
) -> Result<()> {
    let image = node.image().ok_or_else(|| Error::bug("a qcow2 node without an image"))?;
    let get = |name: &str| options.peek(name);
    let Some(options) = amend_encryption_options(get, &Ids(graph), force)? else { return Ok(()) };
    let _quiet = graph.quiet(node).await;
    amend_encryption(&image, &options).await
}

/// Looks whether an image that was made is there: not everything keeps what is written to it.
async fn can_be_opened(
    graph: &Graph,
    format: FormatName,
    device: Device,
    filename: &str,
) -> Result<()> {
    let look = OpenOptions {
        format: Some(format),
        access: Access::ReadOnly,
        backing: Backing::Ignore,
        data_file: DataSource::Ignore,
        key: KeySource::Ignore,
        ..OpenOptions::default()
    };
    crate::format::open(graph.env(), device, filename, look).await.map(drop)
}

/// The node that an image is made in.
fn target(graph: &Graph, given: ChildOptions) -> Result<Arc<Node>> {
    match given {
        ChildOptions::Node(name) => graph.by_any_name(&name),
        ChildOptions::Inline(_) => Err(Error::unsupported(
            "an image is made in a node that is there already: name it, do not describe it",
        )),
        ChildOptions::Absent | ChildOptions::Null => {
            Err(Error::invalid("Parameter 'file' is missing"))
        }
    }
}

async fn attach(graph: &Graph, node: &Arc<Node>) -> Result<Arc<Root>> {
    let taken = Permissions::WRITE | Permissions::RESIZE;
    graph.attach("", node, Claim { taken, shared: Permissions::all() }).await
}

/// Secrets by their IDs.
struct Ids<'a>(&'a Graph);

impl crate::image::Secrets for Ids<'_> {
    fn secret(&self, id: &str) -> Result<crate::crypto::Secret> {
        self.0.protocols().secret(id)
    }
}
