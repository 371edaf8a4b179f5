"""What `deepspeed` (or `torchrun`, or plain `python`) launches: one rank of one run."""

from fpd_train.cli import run_rank

if __name__ == "__main__":
    run_rank()
