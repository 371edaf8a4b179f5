"""`python -m fpd_eval`: the form that torchrun and deepspeed start."""

from fpd_eval.cli import main

main()
