"""The steps that bring a database of an older Danqing to the shape of this one."""
