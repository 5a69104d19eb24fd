"""The pure core: values, events, transitions and decisions. No I/O, no clock, no third party."""
