"""What `deepspeed` (or `torchrun`, or plain `python`) launches: one rank of one run."""

from fpd_train.stopping import StopRequest

if __name__ == "__main__":
    stop = StopRequest()  # first of all: what comes next is imported for seconds
    from fpd_train.cli import run_rank

    run_rank(stop)
