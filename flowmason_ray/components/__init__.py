"""What stages do. Here live the decorators that declare a component, the registry that finds components by name, and the
built-in catalogue (`builtin/`, one file per family).

Components know their input, their output and the `Context`; they never see a run, a plan or an executor. Optional
dependencies are imported at the top of the one family that needs them, and that family is imported only when a pipeline
names one of its components. Tests run components for real: real files, real HTTP servers.
"""
