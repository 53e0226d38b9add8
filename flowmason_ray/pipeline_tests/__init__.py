"""Tests of pipelines: `*.test.json` files, and what `fm test` does with them.

A case gives a pipeline an input, answers for some of its stages (mocks), and says what must come out. Cases are run by the
same planner, runner and executors as any other run; the only thing that is put in between is an executor that answers the
mocked stages (`mocking`). Nothing is mocked that a case does not declare.

    cases, reading, checking     the file: its models, its text, what must hold against the pipeline's plan
    discovery, opening           which files are meant, and making one ready to be run
    mocking, recording           the run: answers for mocked stages, and what every stage gave
    json_paths, operators, judging   the verdict
    running                      the cases of many files, in order
    coverage, coverage_files, junit  what was run, and the forms in which other tools read it
"""
