#!/usr/bin/env bash
# Builds a TensorRT-LLM 1.2.1 engine from a Hugging Face Llama 3 checkpoint; runs in NVIDIA's TensorRT-LLM image.
# Writes OUTPUT/engine (config.json, rank*.engine) and OUTPUT/tokenizer, the layout that the server expects.
set -euo pipefail

usage() {
  cat <<'TEXT'
usage: build_engine.sh --model DIR --output DIR [--precision bf16|fp8|int4-awq] [--tp 1|2|4]
                       [--max-batch-size 64] [--max-seq-len 8192] [--max-num-tokens 8192]
                       [--calib-dataset DATASET] [--examples DIR] [--dry-run]
--calib-dataset: what fp8 and int4-awq calibrate on, a directory or a name on Hugging Face (default: quantize.py's
            own, which it downloads)
--examples: the examples/ of TensorRT-LLM's v1.2.1 source tree (default: /app/tensorrt_llm/examples)
--dry-run:  print the commands instead of running them
TEXT
}
die() { printf 'build_engine.sh: %s\n' "$*" >&2; exit 2; }

model= output= precision=bf16 tp=1 batch=64 seq=8192 tokens=8192 dry=
examples=/app/tensorrt_llm/examples
calibration=()
while [ $# -gt 0 ]; do
  case $1 in
    --help | -h) usage; exit 0 ;;
    --dry-run) dry=1; shift; continue ;;
    --model | --output | --precision | --tp | --max-batch-size | --max-seq-len | --max-num-tokens | --examples | --calib-dataset)
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
  esac
  shift 2
done
[ -n "$model" ] || die "--model is required"
[ -n "$output" ] || die "--output is required"
case $tp in 1 | 2 | 4) ;; *) die "--tp must be 1, 2 or 4, not $tp" ;; esac
for pair in "--max-batch-size $batch" "--max-seq-len $seq" "--max-num-tokens $tokens"; do
  [[ $pair =~ ^--[a-z-]+\ [1-9][0-9]*$ ]] || die "${pair% *} must be a positive number, not ${pair#* }"
done
[ -n "$dry" ] || [ -f "$model/config.json" ] || die "--model $model has no config.json"

run() {
  if [ -n "$dry" ]; then printf '%q ' "$@"; printf '\n'; else "$@"; fi
}

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
  --use_paged_context_fmha enable --kv_cache_type paged --workers "$tp"
run mkdir -p "$output/tokenizer"
for file in tokenizer.json tokenizer_config.json special_tokens_map.json generation_config.json chat_template.jinja; do
  if [ -n "$dry" ] || [ -f "$model/$file" ]; then run cp "$model/$file" "$output/tokenizer/$file"; fi
done
run rm -rf "$checkpoint"
