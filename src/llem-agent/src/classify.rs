//! What a driver's last words mean: one table of signatures, the first that fits decides.
//!
//! Engines wrap the cause of a failure in messages of their own ("Engine core initialization failed"), which say
//! nothing; they are not in the table, so that the log, where the workers wrote the cause, is searched after them.

use llem_protocol::FailureClass;
use llem_protocol::FailureClass::{
    Communication, EngineMissing, EngineStale, GpuBusy, HostOutOfMemory, InvalidConfig, ModelGated, ModelMissing,
    NoGpu, OutOfMemory, Unsupported, UnsupportedArchitecture,
};

/// A row fits when one text holds all of its fragments. Fragments are lower case; texts are lowered before.
struct Signature {
    class: FailureClass,
    fragments: &'static [&'static str],
}

const fn row(class: FailureClass, fragments: &'static [&'static str]) -> Signature {
    Signature { class, fragments }
}

/// The order is the meaning: a busy GPU before memory, memory and stale engines before what wraps them, gated before
/// missing (hubs report both as missing), a missing GPU driver before a missing library, settings last.
const SIGNATURES: &[Signature] = &[
    row(GpuBusy, &["free memory on device", "less than desired"]),
    row(OutOfMemory, &["cuda out of memory"]),
    row(OutOfMemory, &["outofmemoryerror"]),
    row(OutOfMemory, &["not enough gpu memory"]),
    row(OutOfMemory, &["insufficient gpu memory"]),
    row(OutOfMemory, &["no available memory for the cache blocks"]),
    row(OutOfMemory, &["larger than the available kv cache memory"]),
    row(OutOfMemory, &["insufficient", "kv cache"]),
    row(HostOutOfMemory, &["available memory on node"]),
    row(OutOfMemory, &["cuda", "out of memory"]),
    row(OutOfMemory, &["[trt]", "outofmemory"]),
    row(OutOfMemory, &["cublas_status_alloc_failed"]),
    row(HostOutOfMemory, &["std::bad_alloc"]),
    row(HostOutOfMemory, &["defaultcpuallocator", "can't allocate memory"]),
    row(EngineStale, &["engine plan file is generated on an incompatible device"]),
    row(EngineStale, &["not compatible with this version of tensorrt"]),
    row(EngineStale, &["failed to deserialize cuda engine"]),
    row(ModelGated, &["gatedrepoerror"]),
    row(ModelGated, &["access a gated repo"]),
    row(ModelGated, &["401 client error"]),
    row(ModelGated, &["403 client error"]),
    row(ModelGated, &["repositorynotfounderror"]),
    row(ModelMissing, &["localentrynotfounderror"]),
    row(ModelMissing, &["cannot find an appropriate cached snapshot folder"]),
    row(ModelMissing, &["invalid repository id or local directory"]),
    row(ModelMissing, &["failed to infer model format because no config.json exists"]),
    row(ModelMissing, &["is not a local folder and is not a valid model identifier"]),
    row(ModelMissing, &["couldn't connect to 'https://huggingface.co'"]),
    row(ModelMissing, &["is not a valid git identifier"]),
    row(ModelMissing, &["weights were not initialized from checkpoint"]),
    row(ModelMissing, &["cannot find any model weights"]),
    row(ModelMissing, &["no file named", "found in directory"]),
    row(ModelMissing, &["safetensorerror"]),
    row(UnsupportedArchitecture, &["does not recognize this architecture"]),
    row(UnsupportedArchitecture, &["model architectures", "are not supported"]),
    row(UnsupportedArchitecture, &["unknown architecture for"]),
    row(UnsupportedArchitecture, &["unsupported model architecture"]),
    row(NoGpu, &["failed to infer device type"]),
    row(NoGpu, &["libcuda.so", "cannot open shared object file"]),
    row(NoGpu, &["nvmlerror_librarynotfound"]),
    row(NoGpu, &["found no nvidia driver"]),
    row(NoGpu, &["cuda driver version is insufficient"]),
    row(NoGpu, &["torch not compiled with cuda enabled"]),
    row(NoGpu, &["no cuda-capable device is detected"]),
    row(Unsupported, &["is only supported on gpus with compute capability"]),
    row(Unsupported, &["is not supported for the current gpu"]),
    row(Unsupported, &["gpus do not support bfloat16"]),
    row(Unsupported, &["quantization is not supported on sm"]),
    row(Unsupported, &["unsupported quantization_config"]),
    row(Unsupported, &["no kernel image is available for execution on the device"]),
    row(Unsupported, &["importerror", "bitsandbytes"]),
    row(Unsupported, &["importerror", "flash"]),
    row(Unsupported, &["literal_error"]),
    row(Unsupported, &["unknown quantization method"]),
    row(Unsupported, &["unknown attention backend"]),
    row(Unsupported, &["selected backend", "is not valid for this configuration"]),
    row(Unsupported, &["no valid attention backend found"]),
    row(Unsupported, &["unsupported cpu attention configuration"]),
    row(Communication, &["nccl error"]),
    row(Communication, &["distbackenderror"]),
    row(Communication, &["ncclunhandledcudaerror"]),
    row(Communication, &["ncclsystemerror"]),
    row(Communication, &["watchdog caught collective operation timeout"]),
    row(Communication, &["error while creating shared memory segment"]),
    row(Communication, &["insufficient space in /dev/shm"]),
    row(Communication, &["bus error"]),
    row(Communication, &["mpi_abort was invoked"]),
    row(EngineMissing, &["failed to find c compiler"]),
    row(EngineMissing, &["no working c++ compiler found"]),
    row(EngineMissing, &["python.h", "no such file"]),
    row(NoGpu, &["no gpu or xpu found"]),
    row(Unsupported, &["group size", "must be a divisor"]),
    row(Unsupported, &["torch._dynamo.exc.unsupported"]),
    row(Unsupported, &["accessing tensor output of cudagraphs"]),
    row(InvalidConfig, &["torch._dynamo.exc.invalidbackend"]),
    row(EngineMissing, &["modulenotfounderror"]),
    row(EngineMissing, &["no module named"]),
    row(EngineMissing, &["importerror"]),
    row(EngineMissing, &["cannot open shared object file"]),
    row(EngineMissing, &["no working c++ compiler found"]),
    row(EngineMissing, &["failed to find c compiler"]),
    row(InvalidConfig, &["unexpected keyword argument"]),
    row(InvalidConfig, &["vllmvalidationerror"]),
    row(InvalidConfig, &["validationerror"]),
    row(InvalidConfig, &["validation error"]),
    row(InvalidConfig, &["got invalid argument"]),
    row(InvalidConfig, &["specific to tensorrt backend"]),
    row(InvalidConfig, &["is not consistent with the engine's"]),
    row(InvalidConfig, &["should not exceed", "max_"]),
    row(InvalidConfig, &["max_model_len", "is greater than the derived max_model_len"]),
    row(InvalidConfig, &["prompt length", "exceeds"]),
];

/// The class of an exception: its own words and those of its causes first, then the log line by line.
pub(crate) fn classify_error(kind: &str, text: &str, causes: &[String], log_tail: &[String]) -> Option<FailureClass> {
    let own = std::iter::once(format!("{kind}: {text}")).chain(causes.iter().cloned());
    first_fit(&own.collect::<Vec<_>>()).or_else(|| classify_log(log_tail))
}

/// The class that the log speaks for, when the driver itself said nothing.
pub(crate) fn classify_log(log_tail: &[String]) -> Option<FailureClass> {
    first_fit(log_tail)
}

fn first_fit(texts: &[String]) -> Option<FailureClass> {
    let lowered: Vec<String> = texts.iter().map(|text| text.to_lowercase()).collect();
    let fits = |signature: &&Signature| {
        lowered.iter().any(|text| signature.fragments.iter().all(|fragment| text.contains(fragment)))
    };
    SIGNATURES.iter().find(fits).map(|signature| signature.class)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the engines really say, as far as it was seen.
    const MESSAGES: &[(FailureClass, &str, &str)] = &[
        (
            GpuBusy,
            "ValueError",
            "Free memory on device cuda:0 (10.1/79.1 GiB) on startup is less than desired GPU memory \
             utilization (0.9, 71.2 GiB).",
        ),
        (OutOfMemory, "torch.OutOfMemoryError", "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has"),
        (
            OutOfMemory,
            "ValueError",
            "No available memory for the cache blocks. Try increasing `gpu_memory_utilization`",
        ),
        (
            OutOfMemory,
            "ValueError",
            "To serve at least one request with the model's max seq len (131072), (16.0 GiB KV cache is needed, \
             which is larger than the available KV cache memory (2.1 GiB)",
        ),
        (
            OutOfMemory,
            "RuntimeError",
            "Executor creation failed due to insufficient GPU memory.\n\nThe following component could not be \
             created: KV cache",
        ),
        (OutOfMemory, "RuntimeError", "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        (OutOfMemory, "RuntimeError", "[TensorRT-LLM][ERROR] CUDA runtime error in cudaMalloc(ptr, n): out of memory"),
        (
            EngineStale,
            "RuntimeError",
            "The engine plan file is generated on an incompatible device, expecting compute 9.0 got compute 8.0",
        ),
        (EngineStale, "RuntimeError", "Failed to deserialize cuda engine."),
        (InvalidConfig, "ValueError", "LLM got invalid argument: builder_opt"),
        (
            InvalidConfig,
            "ValueError",
            "The following arguments are specific to TensorRT backend and cannot be used with PyTorch backend: ['build_config'].",
        ),
        (InvalidConfig, "ValueError", "tp_size 4 is not consistent with the engine's tp_size 2"),
        (
            InvalidConfig,
            "ValueError",
            "The sum of prompt length (9000.0), query length (0) should not exceed max_num_tokens (8192)",
        ),
        (ModelGated, "OSError", "You are trying to access a gated repo.\nMake sure to have access to it"),
        (
            ModelGated,
            "huggingface_hub.errors.HfHubHTTPError",
            "401 Client Error: Unauthorized for url: https://huggingface.co/x",
        ),
        (
            ModelMissing,
            "huggingface_hub.errors.LocalEntryNotFoundError",
            "Cannot find an appropriate cached snapshot folder for the specified revision",
        ),
        (
            ModelMissing,
            "OSError",
            "abc is not a local folder and is not a valid model identifier listed on \
                 'https://huggingface.co/models'",
        ),
        (
            ModelMissing,
            "OSError",
            "Error no file named model.safetensors, or pytorch_model.bin, found in directory /llem/model.",
        ),
        (
            ModelMissing,
            "safetensors._safetensors_rust.SafetensorError",
            "Error while deserializing header: incomplete metadata, file not fully covered",
        ),
        (ModelMissing, "OSError", "We couldn't connect to 'https://huggingface.co' to load the files"),
        (
            UnsupportedArchitecture,
            "pydantic.ValidationError",
            "The checkpoint has model type `foo` but Transformers does not recognize this architecture.",
        ),
        (UnsupportedArchitecture, "ValueError", "Model architectures ['FooForCausalLM'] are not supported for now."),
        (
            Unsupported,
            "ValueError",
            "Bfloat16 is only supported on GPUs with compute capability of at least 8.0. Your Tesla T4 GPU has \
                 7.5",
        ),
        (
            Unsupported,
            "ValueError",
            "The quantization method fp8 is not supported for the current GPU. Minimum capability: 89.",
        ),
        (Unsupported, "RuntimeError", "CUDA error: no kernel image is available for execution on the device"),
        (
            ModelMissing,
            "ValueError",
            "Following weights were not initialized from checkpoint: {'model.layers.1.mlp.gate_up_proj.weight'}",
        ),
        (ModelMissing, "RuntimeError", "Cannot find any model weights with `/llem/model`"),
        (
            HostOutOfMemory,
            "ValueError",
            "Available memory on node 0 (9.1/23.5 GiB) on startup is less than desired CPU memory utilization (0.92",
        ),
        (
            Unsupported,
            "pydantic_core._pydantic_core.ValidationError",
            "1 validation error for ModelConfig\n  Value error, Unknown quantization method: int3. Must be one of ['awq'",
        ),
        (Unsupported, "ValueError", "Unknown attention backend: 'FLASH'. Valid options are: FLASH_ATTN, TRITON_ATTN"),
        (
            Unsupported,
            "ValueError",
            "Selected backend AttentionBackendEnum.FLASHINFER is not valid for this configuration. Reason: ['x']",
        ),
        (Unsupported, "RuntimeError", "Unsupported CPU attention configuration: head_dim=16 isa=2 kv_cache_idx=0"),
        (
            EngineMissing,
            "torch._inductor.exc.InductorError",
            "InvalidCxxCompiler: No working C++ compiler found in torch._inductor.config.cpp.cxx: (None, 'g++')",
        ),
        (EngineMissing, "RuntimeError", "Failed to find C compiler. Please specify via CC environment variable."),
        (NoGpu, "RuntimeError", "Failed to infer device type, please set the environment variable"),
        (NoGpu, "ImportError", "libcuda.so.1: cannot open shared object file: No such file or directory"),
        (NoGpu, "RuntimeError", "Found no NVIDIA driver on your system. Please check that you have an NVIDIA GPU"),
        (NoGpu, "AssertionError", "Torch not compiled with CUDA enabled"),
        (NoGpu, "RuntimeError", "No GPU or XPU found. A GPU or XPU is needed for FP8 quantization."),
        (Unsupported, "ValueError", "Group size (64) must be a divisor of (32)"),
        (EngineMissing, "RuntimeError", "Failed to find C compiler. Please specify via CC environment variable"),
        (
            EngineMissing,
            "torch._inductor.exc.InductorError",
            "InvalidCxxCompiler: No working C++ compiler found in torch._inductor.config.cpp.cxx: (None, 'g++')",
        ),
        (
            InvalidConfig,
            "torch._dynamo.exc.InvalidBackend",
            "Invalid backend: 'foo', see `torch._dynamo.list_backends()`",
        ),
        (EngineMissing, "ModuleNotFoundError", "No module named 'vllm'"),
        (EngineMissing, "ImportError", "libnvinfer.so.10: cannot open shared object file: No such file or directory"),
        (Communication, "torch.distributed.DistBackendError", "NCCL error in: ProcessGroupNCCL.cpp:3353"),
        (InvalidConfig, "TypeError", "EngineArgs.__init__() got an unexpected keyword argument 'max_batch'"),
        (
            Communication,
            "RuntimeError",
            "Insufficient space in /dev/shm for shared-memory allocation: 160 MiB required, 64 MiB free.",
        ),
        (
            InvalidConfig,
            "pydantic.ValidationError",
            "User-specified max_model_len (9999) is greater than the derived max_model_len",
        ),
    ];

    #[test]
    fn messages_of_the_engines_have_their_class() {
        for (class, kind, text) in MESSAGES {
            assert_eq!(classify_error(kind, text, &[], &[]), Some(*class), "{kind}: {text}");
        }
    }

    #[test]
    fn a_wrapper_is_classified_by_its_cause_or_the_log() {
        let wrapper = "Engine core initialization failed. See root cause above. Failed core proc(s): {}";
        let cause = ["torch.OutOfMemoryError: CUDA out of memory.".to_owned()];
        assert_eq!(classify_error("RuntimeError", wrapper, &cause, &[]), Some(OutOfMemory));
        assert_eq!(classify_error("RuntimeError", wrapper, &[], &cause), Some(OutOfMemory));
        assert_eq!(classify_error("RuntimeError", wrapper, &[], &[]), None);
    }

    #[test]
    fn fragments_of_different_log_lines_do_not_add_up() {
        let lines = ["using CUDA graphs".to_owned(), "patience is out of memory of man".to_owned()];
        assert_eq!(classify_log(&lines), None);
    }

    #[test]
    fn every_fragment_is_lower_case_and_every_row_can_be_reached() {
        for (place, signature) in SIGNATURES.iter().enumerate() {
            let text = signature.fragments.join(" ");
            assert_eq!(text, text.to_lowercase());
            let first = SIGNATURES.iter().position(|row| row.fragments.iter().all(|part| text.contains(part)));
            let class = first.map(|first| SIGNATURES[first].class);
            assert_eq!(class, Some(signature.class), "row {place} is hidden");
        }
    }
}
