// The argument types of `tensorrt_llm.bindings.executor` (TensorRT-LLM 1.2.1), declared with the same nanobind
// casters as the real binding, so that a call that nanobind would refuse is refused here too. It computes
// nothing: an `Executor` forwards every call, after conversion, to a Python object (see `_set_backend`).
//
// Sources, all in NVIDIA/TensorRT-LLM under cpp/tensorrt_llm/:
//   nanobind/executor/request.cpp         initRequestBindings         SamplingConfig … Response, enums of a request
//   nanobind/executor/executorConfig.cpp  initConfigBindings          every *Config of the executor
//   nanobind/executor/executor.cpp        Executor::initBindings      constructor and methods
//   nanobind/executor/bindings.cpp        initBindings                ModelType, IterationStats, RequestPerfMetrics
//   executor/samplingConfig.cpp           SamplingConfig::check*      ranges of sampling parameters
//   executor/requestImpl.h                Request::Impl::validate     prompt, max_tokens
//   executor/loraConfig.cpp               LoraConfig::LoraConfig      dimensions and types of an adapter
//   executor/decodingConfig.cpp           LookaheadDecodingConfig, DecodingConfig
#include <nanobind/nanobind.h>
#include <nanobind/stl/chrono.h>
#include <nanobind/stl/filesystem.h>
#include <nanobind/stl/list.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <list>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

namespace nb = nanobind;
using namespace nb::literals;
template <class T>
using Opt = std::optional<T>;
using Int = std::int32_t;    // SizeType32, TokenIdType
using Float = float;         // FloatType
using Id = std::uint64_t;    // IdType, RandomSeedType, LoraTaskIdType
using Tokens = std::vector<Int>;
using Millis = std::chrono::milliseconds;

enum class CapacityPolicy { MaxUtilization, GuaranteedNoEvict, StaticBatch };
enum class ChunkingPolicy { FirstCome, EqualProgress };
enum class BatchingType { Static, Inflight };
enum class CommType { Mpi };
enum class CommMode { Leader, Orchestrator };
enum class ModelType { DecoderOnly, EncoderOnly, EncoderDecoder };
enum class Finish { NotFinished, EndId, StopWords, Length, TimedOut, Cancelled };
enum class GuidedBackend { XGrammar, LLGuidance };
enum class GuideType { Json, JsonSchema, Regex, Ebnf, StructuralTag };

struct Tensor {  // the binding's Tensor caster takes a torch.Tensor
    nb::object value;
};
namespace nanobind::detail {
template <>
struct type_caster<Tensor> {
    NB_TYPE_CASTER(Tensor, const_name("torch.Tensor"))
    bool from_python(handle src, std::uint8_t, cleanup_list*) noexcept {
        if (!nb::hasattr(src, "data_ptr")) return false;
        value.value = nb::borrow(src);
        return true;
    }
    static handle from_cpp(Tensor const& tensor, rv_policy, cleanup_list*) noexcept {
        return nb::object(tensor.value).release();
    }
};
}  // namespace nanobind::detail

static void check(bool holds, char const* message) {  // TLLM_CHECK_WITH_INFO: a RuntimeError with a backtrace
    if (!holds) throw std::runtime_error(std::string("[TensorRT-LLM][ERROR] ") + message + "\n1 0x7f…");
}

struct Unused {};  // a class of the binding that this server passes nothing of: only None is accepted
struct MpiComm {};
struct SamplingConfig {
    Int beam_width;
    Opt<Int> top_k;
    Opt<Float> top_p, top_p_min;
    Opt<Int> top_p_reset_ids;
    Opt<Float> top_p_decay;
    Opt<Id> seed;
    Opt<Float> temperature;
    Opt<Int> min_tokens;
    Opt<Float> beam_search_diversity_rate, repetition_penalty, presence_penalty, frequency_penalty;
    Opt<Int> prompt_ignore_length;
    Opt<Float> length_penalty;
    Opt<Int> early_stopping, no_repeat_ngram_size, num_return_sequences;
    Opt<Float> min_p;
    Opt<std::vector<Int>> beam_width_array;
};
struct OutputConfig {
    bool return_log_probs = false, return_context_logits = false, return_generation_logits = false,
         exclude_input_from_output = false, return_encoder_output = false, return_perf_metrics = false;
};
struct SchedulerConfig {
    CapacityPolicy capacity_scheduler_policy = CapacityPolicy::GuaranteedNoEvict;
    Opt<ChunkingPolicy> context_chunking_policy;
    Opt<Unused> dynamic_batch_config;
};
struct KvCacheConfig {
    bool enable_block_reuse = true;
    Opt<Int> max_tokens;
    Opt<std::vector<Int>> max_attention_window;
    Opt<Int> sink_token_length;
    Opt<Float> free_gpu_memory_fraction;
    Opt<std::size_t> host_cache_size;
    bool onboard_blocks = true;
    Opt<Float> cross_kv_cache_fraction;
    Opt<Int> secondary_offload_min_priority;
    std::size_t event_buffer_max_size = 0;
    bool enable_partial_reuse = true, copy_on_partial_reuse = true, use_uvm = false;
};
struct OrchestratorConfig {
    bool is_orchestrator;
    std::string worker_executable_path;
    std::shared_ptr<MpiComm> orch_leader_comm;
    bool spawn_processes;
};
struct ParallelConfig {
    CommType communication_type;
    CommMode communication_mode;
    Opt<std::vector<Int>> device_ids, participant_ids;
    Opt<OrchestratorConfig> orchestrator_config;
    Opt<Int> num_nodes;
};
struct PeftCacheConfig {
    Int num_host_module_layer = 0, num_device_module_layer = 0, optimal_adapter_size = 8, max_adapter_size = 64;
    Int num_put_workers = 1, num_ensure_workers = 1, num_copy_streams = 1;
    Int max_pages_per_block_host = 24, max_pages_per_block_device = 8;
    Opt<Float> device_cache_percent;
    Opt<std::size_t> host_cache_size;
    Opt<std::string> lora_prefetch_dir;
};
struct LookaheadDecodingConfig {
    Int max_window_size, max_ngram_size, max_verification_set_size;
};
struct DecodingMode {
    std::string name;
};
struct DecodingConfig {
    Opt<DecodingMode> decoding_mode;
    Opt<LookaheadDecodingConfig> lookahead_decoding_config;
    Opt<Unused> medusa_choices, eagle_config;
};
struct GuidedDecodingConfig {
    GuidedBackend backend;
    Opt<std::vector<std::string>> encoded_vocab;
    Opt<std::string> tokenizer_str;
    Opt<Tokens> stop_token_ids;
};
struct GuidedDecodingParams {
    GuideType guide_type;
    Opt<std::string> guide;
};
struct LoraConfig {
    Id task_id;
    Opt<Tensor> weights, config;
};
struct ExecutorConfig {
    Int max_beam_width;
    SchedulerConfig scheduler_config;
    KvCacheConfig kv_cache_config;
    bool enable_chunked_context, normalize_log_probs;
    Int iter_stats_max_iterations, request_stats_max_iterations;
    BatchingType batching_type;
    Opt<Int> max_batch_size, max_num_tokens;
    Opt<ParallelConfig> parallel_config;
    Opt<PeftCacheConfig> peft_cache_config;
    Opt<Unused> logits_post_processor_config;
    Opt<DecodingConfig> decoding_config;
    bool use_gpu_direct_storage;
    float gpu_weights_percent;
    Opt<Int> max_queue_size;
    Opt<Unused> extended_runtime_perf_knob_config, debug_config;
    Int recv_poll_period_ms;
    Id max_seq_idle_microseconds;
    Opt<Unused> spec_dec_config;
    Opt<GuidedDecodingConfig> guided_decoding_config;
};
struct Request {
    Tokens input_token_ids;
    Int max_tokens;
    bool streaming;
    SamplingConfig sampling_config;
    OutputConfig output_config;
    Opt<Int> end_id, pad_id;
    Opt<Tokens> position_ids;
    Opt<std::list<Tokens>> bad_words, stop_words;
    Opt<Tensor> embedding_bias;
    Opt<Unused> external_draft_tokens_config, prompt_tuning_config;
    Opt<LoraConfig> lora_config;
    Opt<LookaheadDecodingConfig> lookahead_config;
    Opt<Unused> kv_cache_retention_config;
    Opt<std::string> logits_post_processor_name;
    Opt<Id> client_id;
    bool return_all_generated_tokens;
    float priority;
    Int num_return_sequences;
    Opt<GuidedDecodingParams> guided_decoding_params;
    Opt<Millis> allotted_time_ms;
    Opt<Id> cache_salt_id;
};
struct KvCacheMetrics {
    Int num_total_allocated_blocks = 0, num_new_allocated_blocks = 0, num_reused_blocks = 0, num_missed_blocks = 0;
    Float kv_cache_hit_rate = 0;
};
struct RequestPerfMetrics {
    KvCacheMetrics kv_cache_metrics;
};
struct Result {
    bool is_final = false, is_sequence_final = false;
    Int sequence_index = 0;
    std::vector<Tokens> output_token_ids;
    Opt<std::vector<Float>> cum_log_probs;
    Opt<std::vector<std::vector<Float>>> log_probs;
    std::vector<Finish> finish_reasons;
    Int decoding_iter = 0;
    Opt<RequestPerfMetrics> request_perf_metrics;
};
struct Response {
    Id request_id;
    Opt<std::string> error;
    Opt<Result> result;
};
struct IterationStats {
    std::string json;
};

static nb::object& backend = *new nb::object();  // callable(model_path, config) -> object; never destroyed, as it
                                                 // would be after the interpreter
struct Executor {
    nb::object impl;
};

static void check_sampling(SamplingConfig const& s) {  // samplingConfig.cpp, SamplingConfig::check*
    check(s.beam_width > 0, "beam_width must be positive");
    check(!s.top_k || *s.top_k >= 0, "top_k must not be negative");
    check(!s.top_p || (*s.top_p > 0 && *s.top_p <= 1), "top_p must be in (0, 1]");
    check(!s.temperature || *s.temperature >= 0, "temperature must not be negative");
    check(!s.min_tokens || *s.min_tokens >= 0, "min_tokens must not be negative");
    check(!s.repetition_penalty || *s.repetition_penalty > 0, "repetition_penalty must be positive");
    check(!s.prompt_ignore_length || *s.prompt_ignore_length >= 0, "prompt_ignore_length must not be negative");
    check(!s.min_p || (*s.min_p >= 0 && *s.min_p <= 1), "min_p must be in [0, 1]");
}

static std::size_t dimensions(Tensor const& t) { return nb::cast<std::size_t>(t.value.attr("ndim")); }
static long first_size(Tensor const& t) { return nb::cast<long>(t.value.attr("size")(0)); }
static bool on_cpu(Tensor const& t) { return !nb::cast<bool>(t.value.attr("is_cuda")); }
static bool is_int32(Tensor const& t) {
    nb::object type = t.value.attr("dtype");
    return std::string(nb::str(type).c_str()) == "torch.int32";
}

static void check_lora(Opt<Tensor> const& weights, Opt<Tensor> const& config) {
    if (config) {
        check(dimensions(*config) == 2, "Expected config tensor to have 2 dimensions");
        check(on_cpu(*config), "Expected lora config to be in CPU memory");
        check(is_int32(*config), "Expected lora config tensor to have type kINT32");
    }
    if (!weights) return;
    check(config.has_value(), "Request for LoRA inference with lora weights must also have lora config");
    check(dimensions(*weights) == 2, "Expected weights tensor to have 2 dimensions");
    check(on_cpu(*weights), "Expected lora weights to be in CPU memory");
    check(first_size(*config) == first_size(*weights),
        "Expected dim 0 of lora weights and lora config to have the same size");
}
static void check_lookahead(LookaheadDecodingConfig const& c) {
    check(c.max_ngram_size >= 1, "ngramSize requires >= 1");
    check(c.max_window_size >= 1, "windowSize requires >= 1");
    check(c.max_ngram_size != 1 || c.max_verification_set_size == 0, "ngramSize=1 requires verificationSetSize=0");
    check(c.max_ngram_size != 1 || c.max_window_size == 1, "ngramSize=1 requires windowSize=1");
    check(c.max_verification_set_size >= 0, "verificationSetSize requires >=0");
}

#define NONE(name) nb::arg(name) = nb::none()

NB_MODULE(tensorrt_llm_bindings, m) {
    nb::set_leak_warnings(false);
    nb::enum_<CapacityPolicy>(m, "CapacitySchedulerPolicy")
        .value("MAX_UTILIZATION", CapacityPolicy::MaxUtilization)
        .value("GUARANTEED_NO_EVICT", CapacityPolicy::GuaranteedNoEvict)
        .value("STATIC_BATCH", CapacityPolicy::StaticBatch);
    nb::enum_<ChunkingPolicy>(m, "ContextChunkingPolicy")
        .value("FIRST_COME_FIRST_SERVED", ChunkingPolicy::FirstCome)
        .value("EQUAL_PROGRESS", ChunkingPolicy::EqualProgress);
    nb::enum_<BatchingType>(m, "BatchingType")
        .value("STATIC", BatchingType::Static)
        .value("INFLIGHT", BatchingType::Inflight);
    nb::enum_<CommType>(m, "CommunicationType").value("MPI", CommType::Mpi);
    nb::enum_<CommMode>(m, "CommunicationMode")
        .value("LEADER", CommMode::Leader)
        .value("ORCHESTRATOR", CommMode::Orchestrator);
    nb::enum_<ModelType>(m, "ModelType")
        .value("DECODER_ONLY", ModelType::DecoderOnly)
        .value("ENCODER_ONLY", ModelType::EncoderOnly)
        .value("ENCODER_DECODER", ModelType::EncoderDecoder);
    nb::enum_<Finish>(m, "FinishReason")
        .value("NOT_FINISHED", Finish::NotFinished)
        .value("END_ID", Finish::EndId)
        .value("STOP_WORDS", Finish::StopWords)
        .value("LENGTH", Finish::Length)
        .value("TIMED_OUT", Finish::TimedOut)
        .value("CANCELLED", Finish::Cancelled);
    nb::class_<Unused>(m, "_Unused");
    nb::class_<MpiComm>(m, "MpiComm");

    // request.cpp, initRequestBindings: beam_width by position, the rest by keyword.
    nb::class_<SamplingConfig>(m, "SamplingConfig")
        .def(
            "__init__",
            [](SamplingConfig* self, Int beam_width, Opt<Int> top_k, Opt<Float> top_p, Opt<Float> top_p_min,
                Opt<Int> top_p_reset_ids, Opt<Float> top_p_decay, Opt<Id> seed, Opt<Float> temperature,
                Opt<Int> min_tokens, Opt<Float> diversity, Opt<Float> repetition, Opt<Float> presence,
                Opt<Float> frequency, Opt<Int> ignore, Opt<Float> length, Opt<Int> early, Opt<Int> ngram,
                Opt<Int> sequences, Opt<Float> min_p, Opt<std::vector<Int>> widths) {
                SamplingConfig made{beam_width, top_k, top_p, top_p_min, top_p_reset_ids, top_p_decay, seed,
                    temperature, min_tokens, diversity, repetition, presence, frequency, ignore, length, early,
                    ngram, sequences, min_p, widths};
                check_sampling(made);
                new (self) SamplingConfig(made);
            },
            "beam_width"_a = 1, nb::kw_only(), NONE("top_k"), NONE("top_p"), NONE("top_p_min"),
            NONE("top_p_reset_ids"), NONE("top_p_decay"), NONE("seed"), NONE("temperature"), NONE("min_tokens"),
            NONE("beam_search_diversity_rate"), NONE("repetition_penalty"), NONE("presence_penalty"),
            NONE("frequency_penalty"), NONE("prompt_ignore_length"), NONE("length_penalty"),
            NONE("early_stopping"), NONE("no_repeat_ngram_size"), NONE("num_return_sequences"), NONE("min_p"),
            NONE("beam_width_array"))
        .def_rw("beam_width", &SamplingConfig::beam_width)
        .def_rw("top_k", &SamplingConfig::top_k)
        .def_rw("top_p", &SamplingConfig::top_p)
        .def_rw("seed", &SamplingConfig::seed)
        .def_rw("temperature", &SamplingConfig::temperature)
        .def_rw("min_tokens", &SamplingConfig::min_tokens)
        .def_rw("repetition_penalty", &SamplingConfig::repetition_penalty)
        .def_rw("presence_penalty", &SamplingConfig::presence_penalty)
        .def_rw("frequency_penalty", &SamplingConfig::frequency_penalty)
        .def_rw("prompt_ignore_length", &SamplingConfig::prompt_ignore_length)
        .def_rw("min_p", &SamplingConfig::min_p);
    nb::class_<OutputConfig>(m, "OutputConfig")
        .def(
            "__init__",
            [](OutputConfig* self, bool a, bool b, bool c, bool d, bool e, bool f, Opt<Unused>) {
                new (self) OutputConfig{a, b, c, d, e, f};
            },
            nb::arg("return_log_probs") = false, "return_context_logits"_a = false,
            "return_generation_logits"_a = false, "exclude_input_from_output"_a = false,
            "return_encoder_output"_a = false, "return_perf_metrics"_a = false, NONE("additional_model_outputs"))
        .def_rw("return_log_probs", &OutputConfig::return_log_probs)
        .def_rw("exclude_input_from_output", &OutputConfig::exclude_input_from_output)
        .def_rw("return_perf_metrics", &OutputConfig::return_perf_metrics);

    auto params = nb::class_<GuidedDecodingParams>(m, "GuidedDecodingParams");
    nb::enum_<GuideType>(params, "GuideType")
        .value("JSON", GuideType::Json)
        .value("JSON_SCHEMA", GuideType::JsonSchema)
        .value("REGEX", GuideType::Regex)
        .value("EBNF_GRAMMAR", GuideType::Ebnf)
        .value("STRUCTURAL_TAG", GuideType::StructuralTag);
    params
        .def(
            "__init__",
            [](GuidedDecodingParams* self, GuideType type, Opt<std::string> guide) {
                check((type == GuideType::Json) != guide.has_value(), "this guide type takes a guide, or none");
                new (self) GuidedDecodingParams{type, guide};
            },
            "guide_type"_a, NONE("guide"))
        .def_ro("guide_type", &GuidedDecodingParams::guide_type)
        .def_ro("guide", &GuidedDecodingParams::guide);
    nb::class_<LoraConfig>(m, "LoraConfig")
        .def(
            "__init__",
            [](LoraConfig* self, Id task_id, Opt<Tensor> weights, Opt<Tensor> config) {
                check_lora(weights, config);
                new (self) LoraConfig{task_id, weights, config};
            },
            "task_id"_a, NONE("weights"), NONE("config"))
        .def_ro("task_id", &LoraConfig::task_id)
        .def_ro("weights", &LoraConfig::weights)
        .def_ro("config", &LoraConfig::config);

    // executorConfig.cpp, initConfigBindings.
    nb::class_<LookaheadDecodingConfig>(m, "LookaheadDecodingConfig")
        .def(
            "__init__",
            [](LookaheadDecodingConfig* self, Int window, Int ngram, Int verification) {
                LookaheadDecodingConfig made{window, ngram, verification};
                check_lookahead(made);
                new (self) LookaheadDecodingConfig(made);
            },
            "max_window_size"_a, "max_ngram_size"_a, "max_verification_set_size"_a)
        .def_ro("max_window_size", &LookaheadDecodingConfig::max_window_size)
        .def_ro("max_ngram_size", &LookaheadDecodingConfig::max_ngram_size)
        .def_ro("max_verification_set_size", &LookaheadDecodingConfig::max_verification_set_size);
    nb::class_<DecodingMode>(m, "DecodingMode")
        .def_static("Lookahead", [] { return DecodingMode{"Lookahead"}; })
        .def_ro("_name", &DecodingMode::name);
    nb::class_<DecodingConfig>(m, "DecodingConfig")
        .def(
            "__init__",
            [](DecodingConfig* self, Opt<DecodingMode> mode, Opt<LookaheadDecodingConfig> lookahead, Opt<Unused>,
                Opt<Unused>) {
                check(!lookahead || (mode && mode->name == "Lookahead"),
                    "LookaheadDecodingConfig is set, but DecodingMode is not set to Lookahead");
                new (self) DecodingConfig{mode, lookahead};
            },
            NONE("decoding_mode"), NONE("lookahead_decoding_config"), NONE("medusa_choices"), NONE("eagle_config"))
        .def_ro("decoding_mode", &DecodingConfig::decoding_mode)  // its setter throws for Lookahead
        .def_rw("lookahead_decoding_config", &DecodingConfig::lookahead_decoding_config);
    nb::class_<SchedulerConfig>(m, "SchedulerConfig")
        .def(nb::init<CapacityPolicy, Opt<ChunkingPolicy>, Opt<Unused>>(),
            "capacity_scheduler_policy"_a = CapacityPolicy::GuaranteedNoEvict, NONE("context_chunking_policy"),
            NONE("dynamic_batch_config"))
        .def_ro("capacity_scheduler_policy", &SchedulerConfig::capacity_scheduler_policy);
    nb::class_<KvCacheConfig>(m, "KvCacheConfig")
        .def(nb::init<bool, Opt<Int>, Opt<std::vector<Int>>, Opt<Int>, Opt<Float>, Opt<std::size_t>, bool,
                 Opt<Float>, Opt<Int>, std::size_t, bool, bool, bool>(),
            "enable_block_reuse"_a = true, NONE("max_tokens"), NONE("max_attention_window"),
            NONE("sink_token_length"), NONE("free_gpu_memory_fraction"), NONE("host_cache_size"),
            "onboard_blocks"_a = true, NONE("cross_kv_cache_fraction"), NONE("secondary_offload_min_priority"),
            "event_buffer_max_size"_a = 0, nb::kw_only(), "enable_partial_reuse"_a = true,
            "copy_on_partial_reuse"_a = true, "use_uvm"_a = false)
        .def_rw("enable_block_reuse", &KvCacheConfig::enable_block_reuse)
        .def_rw("max_tokens", &KvCacheConfig::max_tokens)
        .def_rw("free_gpu_memory_fraction", &KvCacheConfig::free_gpu_memory_fraction)
        .def_rw("enable_partial_reuse", &KvCacheConfig::enable_partial_reuse);
    nb::class_<OrchestratorConfig>(m, "OrchestratorConfig")
        .def(nb::init<bool, std::string, std::shared_ptr<MpiComm>, bool>(), "is_orchestrator"_a = true,
            "worker_executable_path"_a = "", nb::arg("orch_leader_comm").none() = nullptr,
            "spawn_processes"_a = true)
        .def_rw("is_orchestrator", &OrchestratorConfig::is_orchestrator)
        .def_rw("worker_executable_path", &OrchestratorConfig::worker_executable_path)
        .def_rw("spawn_processes", &OrchestratorConfig::spawn_processes);
    nb::class_<ParallelConfig>(m, "ParallelConfig")
        .def(nb::init<CommType, CommMode, Opt<std::vector<Int>>, Opt<std::vector<Int>>, Opt<OrchestratorConfig>,
                 Opt<Int>>(),
            "communication_type"_a = CommType::Mpi, "communication_mode"_a = CommMode::Leader, NONE("device_ids"),
            NONE("participant_ids"), NONE("orchestrator_config"), NONE("num_nodes"))
        .def_rw("communication_mode", &ParallelConfig::communication_mode)
        .def_rw("device_ids", &ParallelConfig::device_ids)
        .def_rw("participant_ids", &ParallelConfig::participant_ids)
        .def_rw("orchestrator_config", &ParallelConfig::orchestrator_config);
    nb::class_<PeftCacheConfig>(m, "PeftCacheConfig")
        .def(nb::init<Int, Int, Int, Int, Int, Int, Int, Int, Int, Opt<Float>, Opt<std::size_t>,
                 Opt<std::string>>(),
            "num_host_module_layer"_a = 0, "num_device_module_layer"_a = 0, "optimal_adapter_size"_a = 8,
            "max_adapter_size"_a = 64, "num_put_workers"_a = 1, "num_ensure_workers"_a = 1,
            "num_copy_streams"_a = 1, "max_pages_per_block_host"_a = 24, "max_pages_per_block_device"_a = 8,
            NONE("device_cache_percent"), NONE("host_cache_size"), NONE("lora_prefetch_dir"))
        .def_ro("optimal_adapter_size", &PeftCacheConfig::optimal_adapter_size)
        .def_ro("max_adapter_size", &PeftCacheConfig::max_adapter_size)
        .def_ro("device_cache_percent", &PeftCacheConfig::device_cache_percent)
        .def_ro("host_cache_size", &PeftCacheConfig::host_cache_size);
    auto guided = nb::class_<GuidedDecodingConfig>(m, "GuidedDecodingConfig");
    nb::enum_<GuidedBackend>(guided, "GuidedDecodingBackend")
        .value("XGRAMMAR", GuidedBackend::XGrammar)
        .value("LLGUIDANCE", GuidedBackend::LLGuidance);
    guided
        .def(nb::init<GuidedBackend, Opt<std::vector<std::string>>, Opt<std::string>, Opt<Tokens>>(), "backend"_a,
            NONE("encoded_vocab"), NONE("tokenizer_str"), NONE("stop_token_ids"))
        .def_rw("backend", &GuidedDecodingConfig::backend)
        .def_rw("encoded_vocab", &GuidedDecodingConfig::encoded_vocab)
        .def_rw("tokenizer_str", &GuidedDecodingConfig::tokenizer_str)
        .def_rw("stop_token_ids", &GuidedDecodingConfig::stop_token_ids);
    nb::class_<ExecutorConfig>(m, "ExecutorConfig", nb::dynamic_attr())
        .def(nb::init<Int, SchedulerConfig, KvCacheConfig, bool, bool, Int, Int, BatchingType, Opt<Int>, Opt<Int>,
                 Opt<ParallelConfig>, Opt<PeftCacheConfig>, Opt<Unused>, Opt<DecodingConfig>, bool, float, Opt<Int>,
                 Opt<Unused>, Opt<Unused>, Int, Id, Opt<Unused>, Opt<GuidedDecodingConfig>>(),
            "max_beam_width"_a = 1, "scheduler_config"_a = SchedulerConfig(), "kv_cache_config"_a = KvCacheConfig(),
            "enable_chunked_context"_a = false, "normalize_log_probs"_a = true,
            "iter_stats_max_iterations"_a = 1000, "request_stats_max_iterations"_a = 0,
            "batching_type"_a = BatchingType::Inflight, NONE("max_batch_size"), NONE("max_num_tokens"),
            NONE("parallel_config"), NONE("peft_cache_config"), NONE("logits_post_processor_config"),
            NONE("decoding_config"), "use_gpu_direct_storage"_a = false, "gpu_weights_percent"_a = 1.0f,
            NONE("max_queue_size"), NONE("extended_runtime_perf_knob_config"), NONE("debug_config"),
            "recv_poll_period_ms"_a = 0, "max_seq_idle_microseconds"_a = 180000000, NONE("spec_dec_config"),
            NONE("guided_decoding_config"))
        .def_rw("scheduler_config", &ExecutorConfig::scheduler_config)
        .def_rw("kv_cache_config", &ExecutorConfig::kv_cache_config)
        .def_rw("enable_chunked_context", &ExecutorConfig::enable_chunked_context)
        .def_rw("normalize_log_probs", &ExecutorConfig::normalize_log_probs)
        .def_rw("max_batch_size", &ExecutorConfig::max_batch_size)
        .def_rw("max_num_tokens", &ExecutorConfig::max_num_tokens)
        .def_rw("parallel_config", &ExecutorConfig::parallel_config)
        .def_rw("peft_cache_config", &ExecutorConfig::peft_cache_config)
        .def_rw("decoding_config", &ExecutorConfig::decoding_config)
        .def_rw("gpu_weights_percent", &ExecutorConfig::gpu_weights_percent)
        .def_rw("max_queue_size", &ExecutorConfig::max_queue_size)
        .def_rw("recv_poll_period_ms", &ExecutorConfig::recv_poll_period_ms)
        .def_rw("guided_decoding_config", &ExecutorConfig::guided_decoding_config);

    nb::class_<Request>(m, "Request", nb::dynamic_attr())
        .def(
            "__init__",
            [](Request* self, Tokens ids, Int max_tokens, bool streaming, SamplingConfig const& sampling,
                OutputConfig const& output, Opt<Int> end_id, Opt<Int> pad_id, Opt<Tokens> positions,
                Opt<std::list<Tokens>> bad, Opt<std::list<Tokens>> stop, Opt<Tensor> bias, Opt<Unused> draft,
                Opt<Unused> tuning, Opt<LoraConfig> lora, Opt<LookaheadDecodingConfig> lookahead,
                Opt<Unused> retention, Opt<std::string> processor, Opt<Id> client_id, bool all, float priority,
                Int sequences, Opt<GuidedDecodingParams> guide, Opt<Millis> allotted, Opt<Id> salt) {
                check(!ids.empty(), "the prompt is empty");
                check(max_tokens > 0, "max_tokens must be positive");
                new (self) Request{ids, max_tokens, streaming, sampling, output, end_id, pad_id, positions, bad,
                    stop, bias, draft, tuning, lora, lookahead, retention, processor, client_id, all, priority,
                    sequences, guide, allotted, salt};
            },
            "input_token_ids"_a, "max_tokens"_a, nb::kw_only(), "streaming"_a = false,
            "sampling_config"_a = SamplingConfig{1}, "output_config"_a = OutputConfig(), NONE("end_id"),
            NONE("pad_id"), NONE("position_ids"), NONE("bad_words"), NONE("stop_words"), NONE("embedding_bias"),
            NONE("external_draft_tokens_config"), NONE("prompt_tuning_config"), NONE("lora_config"),
            NONE("lookahead_config"), NONE("kv_cache_retention_config"), NONE("logits_post_processor_name"),
            NONE("client_id"), "return_all_generated_tokens"_a = false, "priority"_a = 0.5f,
            "num_return_sequences"_a = 1, NONE("guided_decoding_params"), NONE("allotted_time_ms"),
            NONE("cache_salt_id"))
        .def_ro("input_token_ids", &Request::input_token_ids)
        .def_ro("max_tokens", &Request::max_tokens)
        .def_rw("streaming", &Request::streaming)
        .def_rw("sampling_config", &Request::sampling_config)
        .def_rw("output_config", &Request::output_config)
        .def_rw("end_id", &Request::end_id)
        .def_rw("bad_words", &Request::bad_words)
        .def_rw("stop_words", &Request::stop_words)
        .def_rw("embedding_bias", &Request::embedding_bias)
        .def_rw("lora_config", &Request::lora_config)
        .def_rw("lookahead_config", &Request::lookahead_config)
        .def_rw("priority", &Request::priority)
        .def_rw("guided_decoding_params", &Request::guided_decoding_params)
        .def_rw("allotted_time_ms", &Request::allotted_time_ms)
        .def_rw("cache_salt_id", &Request::cache_salt_id);

    nb::class_<KvCacheMetrics>(m, "KvCacheMetrics")
        .def(nb::init<>())
        .def_rw("num_total_allocated_blocks", &KvCacheMetrics::num_total_allocated_blocks)
        .def_rw("num_new_allocated_blocks", &KvCacheMetrics::num_new_allocated_blocks)
        .def_rw("num_reused_blocks", &KvCacheMetrics::num_reused_blocks)
        .def_rw("num_missed_blocks", &KvCacheMetrics::num_missed_blocks)
        .def_rw("kv_cache_hit_rate", &KvCacheMetrics::kv_cache_hit_rate);
    nb::class_<RequestPerfMetrics>(m, "RequestPerfMetrics")
        .def(nb::init<>())
        .def_rw("kv_cache_metrics", &RequestPerfMetrics::kv_cache_metrics);
    nb::class_<Result>(m, "Result")
        .def(nb::init<>())
        .def_rw("is_final", &Result::is_final)
        .def_rw("is_sequence_final", &Result::is_sequence_final)
        .def_rw("sequence_index", &Result::sequence_index)
        .def_rw("output_token_ids", &Result::output_token_ids)
        .def_rw("cum_log_probs", &Result::cum_log_probs)
        .def_rw("log_probs", &Result::log_probs)
        .def_rw("finish_reasons", &Result::finish_reasons)
        .def_rw("decoding_iter", &Result::decoding_iter)
        .def_rw("request_perf_metrics", &Result::request_perf_metrics);
    nb::class_<Response>(m, "Response")
        .def(
            "__init__",
            [](Response* self, Id id, std::string error, Opt<Id>) { new (self) Response{id, error, {}}; },
            "request_id"_a, "error_msg"_a, NONE("client_id"))
        .def(
            "__init__", [](Response* self, Id id, Result result, Opt<Id>) { new (self) Response{id, {}, result}; },
            "request_id"_a, "result"_a, NONE("client_id"))
        .def_ro("request_id", &Response::request_id)
        .def("has_error", [](Response const& r) { return r.error.has_value(); })
        .def_prop_ro("error_msg",
            [](Response const& r) {
                check(r.error.has_value(), "the response holds a result, not an error");
                return *r.error;
            })
        .def_prop_ro("result", [](Response const& r) {
            check(r.result.has_value(), "the response holds an error, not a result");
            return *r.result;
        });
    nb::class_<IterationStats>(m, "IterationStats")
        .def(nb::init<std::string>())
        .def("to_json_str", [](IterationStats const& s) { return s.json; });

    // executor.cpp, Executor::initBindings. await_responses has three overloads.
    nb::class_<Executor>(m, "Executor")
        .def(
            "__init__",
            [](Executor* self, std::filesystem::path const& path, ModelType type, nb::object config) {
                nb::cast<ExecutorConfig const&>(config);
                check(type == ModelType::DecoderOnly, "the fake serves decoders");
                new (self) Executor{backend(path, config)};
            },
            "model_path"_a, "model_type"_a, nb::arg("executor_config").sig("ExecutorConfig"))
        .def(
            "enqueue_request",
            [](Executor& self, Request const& request) {
                return nb::cast<Id>(self.impl.attr("enqueue_request")(nb::cast(request, nb::rv_policy::copy)));
            },
            "request"_a)
        .def(
            "cancel_request", [](Executor& self, Id id) { self.impl.attr("cancel_request")(id); }, "id"_a)
        .def(
            "await_responses",
            [](Executor& self, Opt<Millis> timeout) -> nb::object {
                return self.impl.attr("await_responses")(timeout ? nb::cast(timeout->count()) : nb::none());
            },
            NONE("timeout"))
        .def("get_latest_iteration_stats",
            [](Executor& self) -> nb::object { return self.impl.attr("get_latest_iteration_stats")(); })
        .def("can_enqueue_requests",
            [](Executor& self) { return nb::cast<bool>(self.impl.attr("can_enqueue_requests")()); })
        .def("shutdown", [](Executor& self) { self.impl.attr("shutdown")(); });
    m.def("_set_backend", [](nb::object factory) { backend = factory; });

}
