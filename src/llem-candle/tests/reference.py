"""Greedy tokens of transformers for a model directory and a workload, as one JSON object on stdout."""
import json
import sys

import torch
import transformers

model_dir, workload, batch_size = sys.argv[1], sys.argv[2], int(sys.argv[3])
torch.set_num_threads(1)
requests = [json.loads(line) for line in open(workload)]
model = transformers.AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float32)
tokenizer = transformers.AutoTokenizer.from_pretrained(model_dir)
outputs = []
for start in range(0, len(requests), batch_size):
    batch = requests[start : start + batch_size]
    width = max(len(request["prompt_ids"]) for request in batch)
    pad = [width - len(request["prompt_ids"]) for request in batch]
    ids = torch.tensor([[0] * n + request["prompt_ids"] for n, request in zip(pad, batch)])
    mask = torch.tensor([[0] * n + [1] * (width - n) for n in pad])
    length = max(request["output_tokens"] for request in batch)
    generated = model.generate(
        ids, attention_mask=mask, do_sample=False, max_new_tokens=length, min_new_tokens=length, eos_token_id=None, pad_token_id=0
    )
    outputs += [row[width:][: request["output_tokens"]].tolist() for row, request in zip(generated, batch)]
text = "Größe: 3 × 4 tokens"
print(
    json.dumps(
        {
            "versions": f"transformers {transformers.__version__}, torch {torch.__version__}",
            "checkpoint_dtype": str(transformers.AutoConfig.from_pretrained(model_dir).dtype),
            "parameters": sum(parameter.numel() for parameter in model.parameters()),
            "eos_id": tokenizer.eos_token_id,
            "vocab": len(tokenizer),
            "round_trip": tokenizer.decode(tokenizer(text)["input_ids"]) == text,
            "outputs": outputs,
        }
    )
)
