"""What could have run side by side, and what that would be worth: NanoFlow's question (Zhu et al., OSDI '25).

cards.py         a model and the GPUs that serve it, by name or from TOML files
operators.py     FLOPs, memory and network bytes of a model's operators, their least times, their class
interference.py  how much two kernels that share a device slow each other down
price.py         what hiding memory's and the network's time behind arithmetic saves
timeline.py      slices of a device by resource, and their exposed time
legality.py      what a waiting host kept apart though nothing ties it; same_stream.py: what one stream did
schedule.py      the order in which tasks finish soonest: list scheduling, and an exact program
picture.py       a stretch of the timeline before and after
"""
