"""A user's script as it was before syncd: the Hugging Face Trainer, no callback of ours, `resume_from_checkpoint=True`."""

import os
import time

import torch
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_utils import get_last_checkpoint

STEPS = 100


class TakesTime(TrainerCallback):
    def on_step_end(self, *args: object, **kwargs: object) -> None:
        time.sleep(0.05)


def main() -> None:
    out = os.environ["SYNCD_ROOT"]
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=64, **shape, **heads))
    data = [{"input_ids": torch.randint(0, 64, (16,)), "labels": torch.randint(0, 64, (16,))} for _ in range(400)]
    arguments = TrainingArguments(
        out, max_steps=STEPS, save_steps=20, save_total_limit=2, report_to="none", use_cpu=True, disable_tqdm=True
    )
    trainer = Trainer(model, arguments, train_dataset=data, callbacks=[TakesTime()])
    last = get_last_checkpoint(out)
    print("resuming from", last, flush=True)
    trainer.train(resume_from_checkpoint=True if last else None)


if __name__ == "__main__":
    main()
