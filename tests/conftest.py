"""What holds for every test: time is never what fails one."""

from hypothesis import settings

settings.register_profile("edgemesh", deadline=None)
settings.load_profile("edgemesh")
