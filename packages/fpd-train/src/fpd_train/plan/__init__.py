"""What a run takes before it is paid for: memory, communication, time and cost, from the config and the meta device.

config -> `outline` (networks without storage, one step counted on `meta`) -> `estimate`, with `zero` (what DeepSpeed
keeps and sends) and `gpus` (figures of the cards) -> `page`.
"""
