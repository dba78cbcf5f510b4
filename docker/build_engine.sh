#!/usr/bin/env bash
# Builds a TensorRT-LLM 1.2.1 engine from a Hugging Face Llama 3 checkpoint; runs in NVIDIA's TensorRT-LLM image.
# Writes OUTPUT/engine (config.json, rank*.engine) and OUTPUT/tokenizer, the layout that the server expects, and with
# --lora the converted adapters to OUTPUT/adapters.
set -euo pipefail

usage() {
  cat <<'TEXT'
usage: build_engine.sh --model DIR --output DIR [--precision bf16|fp8|int4-awq] [--tp 1|2|4]
                       [--max-batch-size 64] [--max-seq-len 8192] [--max-num-tokens 8192]
                       [--calib-dataset DATASET] [--lora NAME=DIR]... [--lookahead W,N,G]
                       [--examples DIR] [--dry-run]
--calib-dataset: what fp8 and int4-awq calibrate on, a directory or a name on Hugging Face (default: quantize.py's
            own, which it downloads)
--lora:     a LoRA adapter in PEFT's format (adapter_config.json, adapter_model.safetensors); the engine gets their
            modules and highest rank, and can serve later adapters of no more than these
--lookahead: build for lookahead decoding with these window, n-gram and verification set sizes, e.g. 7,7,7
--examples: the examples/ of TensorRT-LLM's v1.2.1 source tree (default: /app/tensorrt_llm/examples)
--dry-run:  print the commands instead of running them
TEXT
}
die() { printf 'build_engine.sh: %s\n' "$*" >&2; exit 2; }

model= output= precision=bf16 tp=1 batch=64 seq=8192 tokens=8192 dry=
examples=/app/tensorrt_llm/examples
calibration=() adapters=() lookahead=
while [ $# -gt 0 ]; do
  case $1 in
    --help | -h) usage; exit 0 ;;
    --dry-run) dry=1; shift; continue ;;
    --model | --output | --precision | --tp | --max-batch-size | --max-seq-len | --max-num-tokens | --examples | --calib-dataset | --lora | --lookahead)
      [ $# -ge 2 ] || die "$1 needs a value" ;;
    *) die "unknown option $1" ;;
  esac
  case $1 in
    --model) model=$2 ;;
    --output) output=$2 ;;
    --precision) precision=$2 ;;
    --tp) tp=$2 ;;
    --max-batch-size) batch=$2 ;;
    --max-seq-len) seq=$2 ;;
    --max-num-tokens) tokens=$2 ;;
    --examples) examples=$2 ;;
    --calib-dataset) calibration=(--calib_dataset "$2") ;;
    --lora) adapters+=("$2") ;;
    --lookahead) lookahead=$2 ;;
  esac
  shift 2
done
[ -n "$model" ] || die "--model is required"
[ -n "$output" ] || die "--output is required"
case $tp in 1 | 2 | 4) ;; *) die "--tp must be 1, 2 or 4, not $tp" ;; esac
for pair in "--max-batch-size $batch" "--max-seq-len $seq" "--max-num-tokens $tokens"; do
  [[ $pair =~ ^--[a-z-]+\ [1-9][0-9]*$ ]] || die "${pair% *} must be a positive number, not ${pair#* }"
done
for adapter in ${adapters[@]+"${adapters[@]}"}; do
  [[ $adapter == ?*=?* && ${adapter%%=*} != */* ]] || die "--lora must be NAME=DIR, not $adapter"
  [ -f "${adapter#*=}/adapter_config.json" ] || die "--lora ${adapter#*=} has no adapter_config.json"
done
speculation=()
if [ -n "$lookahead" ]; then
  [[ $lookahead =~ ^([1-9][0-9]*),([2-9]|[1-9][0-9]+),([0-9]+)$ ]] || die "--lookahead must be W,N,G, not $lookahead"
  window=${BASH_REMATCH[1]} ngram=${BASH_REMATCH[2]} guesses=${BASH_REMATCH[3]}
  draft=$((ngram - 2 + (window - 1 + guesses) * (ngram - 1)))
  speculation=(--speculative_decoding_mode lookahead_decoding --max_draft_len "$draft")
fi
[ -n "$dry" ] || [ -f "$model/config.json" ] || die "--model $model has no config.json"

run() {
  if [ -n "$dry" ]; then printf '%q ' "$@"; printf '\n'; else "$@"; fi
}

# What the adapters need of the engine: the highest rank, then TensorRT-LLM's names of the modules that they change.
lora_needs() {
  python3 - "$@" <<'PYTHON'
import json, sys

NAMES = {
    "q_proj": "attn_q", "k_proj": "attn_k", "v_proj": "attn_v", "o_proj": "attn_dense",
    "gate_proj": "mlp_h_to_4h", "up_proj": "mlp_gate", "down_proj": "mlp_4h_to_h",
}
rank, modules = 0, set()
for directory in sys.argv[1:]:
    path = directory + "/adapter_config.json"
    with open(path) as file:
        config = json.load(file)
    wanted = config["target_modules"]
    if isinstance(wanted, str) or not set(wanted) <= set(NAMES):
        sys.exit(f"build_engine.sh: {path}: target_modules must be a list of {', '.join(NAMES)}")
    if config.get("modules_to_save"):
        sys.exit(f"build_engine.sh: {path}: modules_to_save cannot be converted")
    rank = max(rank, config["r"], *(config.get("rank_pattern") or {}).values())
    modules.update(NAMES[name] for name in wanted)
if modules & {"attn_q", "attn_k", "attn_v"}:  # the attention layer takes the three together
    modules |= {"attn_q", "attn_k", "attn_v"}
print(rank, *(name for name in NAMES.values() if name in modules))
PYTHON
}

lora=()
if [ ${#adapters[@]} -gt 0 ]; then
  needs=$(lora_needs "${adapters[@]#*=}") || exit 2
  read -r rank modules <<<"$needs"
  # shellcheck disable=SC2206  # a word for each module
  lora=(--lora_plugin auto --max_lora_rank "$rank" --lora_target_modules $modules)
fi

checkpoint=$output/checkpoint
case $precision in
  bf16)
    run python3 "$examples/models/core/llama/convert_checkpoint.py" --model_dir "$model" \
      --output_dir "$checkpoint" --dtype bfloat16 --tp_size "$tp" ;;
  fp8)
    run python3 "$examples/quantization/quantize.py" --model_dir "$model" --dtype auto --qformat fp8 \
      --kv_cache_dtype fp8 --calib_size 512 "${calibration[@]}" --tp_size "$tp" --output_dir "$checkpoint" ;;
  int4-awq)
    run python3 "$examples/quantization/quantize.py" --model_dir "$model" --dtype float16 --qformat int4_awq \
      --awq_block_size 128 "${calibration[@]}" --tp_size "$tp" --output_dir "$checkpoint" ;;
  *) die "--precision must be bf16, fp8 or int4-awq, not $precision" ;;
esac
# Chunked prefill and KV block reuse require paged context attention.
run trtllm-build --checkpoint_dir "$checkpoint" --output_dir "$output/engine" --gemm_plugin auto \
  --max_batch_size "$batch" --max_seq_len "$seq" --max_num_tokens "$tokens" \
  --use_paged_context_fmha enable --kv_cache_type paged --workers "$tp" \
  ${lora[@]+"${lora[@]}"} ${speculation[@]+"${speculation[@]}"}
if [ ${#adapters[@]} -gt 0 ]; then
  # The executor takes weights of the engine's own type only.
  case $precision in
    bf16) storage=bfloat16 ;;
    int4-awq) storage=float16 ;;
    fp8) storage=$(sed -n 's/.*"\(torch_\)\?dtype": *"\([a-z0-9]*\)".*/\2/p' "$model/config.json" 2>/dev/null | head -n 1) ;;
  esac
  for adapter in "${adapters[@]}"; do
    run python3 "$examples/hf_lora_convert.py" -i "${adapter#*=}" -o "$output/adapters/${adapter%%=*}" \
      --storage-type "${storage:-bfloat16}"
  done
fi
run mkdir -p "$output/tokenizer"
for file in tokenizer.json tokenizer_config.json special_tokens_map.json generation_config.json chat_template.jinja; do
  if [ -n "$dry" ] || [ -f "$model/$file" ]; then run cp "$model/$file" "$output/tokenizer/$file"; fi
done
run rm -rf "$checkpoint"
if [ ${#adapters[@]} -gt 0 ]; then
  printf 'for config.yaml:\ntensorrt_llm:\n  lora_adapters:\n' >&2
  for adapter in "${adapters[@]}"; do
    printf '    %s: %s\n' "${adapter%%=*}" "$output/adapters/${adapter%%=*}" >&2
  done
fi
