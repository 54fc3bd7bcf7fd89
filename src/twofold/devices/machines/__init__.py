"""Machines that map ops in their own way, one file each, which ends with `MACHINE`: its class. The file's
name is the machine's, with hyphens. What several are made of lies in `devices.parts`."""
