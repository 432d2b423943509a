"""Paints pictures: schedules orders for a worker process."""
