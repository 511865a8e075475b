"""The numeric floor: arrays of any library, their validation, sampling, minimisation, transport."""
