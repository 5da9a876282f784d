"""Resources that an application manages itself: what a manifest names, how its events are read, who held what."""
