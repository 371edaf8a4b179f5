"""What a run takes before it is paid for: memory, communication, time and cost, from the config and the meta device.

config -> `outline` (networks without storage, one step counted) -> `zero` (what DeepSpeed keeps and sends) -> `estimate`
-> `page`; `gpus` holds the figures of the cards.
"""
