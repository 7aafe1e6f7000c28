"""The environment variables through which the processes of a run tell each other what they are.

They are the hidden state of a run, and this is the list of them. It needs nothing but Python, so
that signals.py can use it before the imports that take seconds. (Beside these, core/processes.py
sets MKL_DEBUG_CPU_TYPE, which Intel's MKL reads.)
"""

# Errors show where in the code they came up. runner.py sets it with -debug, launcher.py reads it.
DEBUG = 'RUN_DEBUG'
# The process id of the supervisor (-max_restarts), which passes signals on and starts the run
# again. launcher.supervise sets it for its child; signals.py, run_folder.py, runner.py read it.
SUPERVISED = 'RUN_SUPERVISED'
# The run's folder, which the supervisor has chosen, or nothing. Set and read as SUPERVISED is.
RUN_FOLDER = 'RUN_FOLDER'

# The rank of this process and the number of ranks, as `paddle.distributed.launch` and `spawn` set
# them before a process group exists. dist.py reads them, and signals.py the first.
TRAINER_ID = 'PADDLE_TRAINER_ID'
TRAINERS_NUM = 'PADDLE_TRAINERS_NUM'
# The number of machines, and HOST:PORT of each rank, as the launcher sets them. dist.py reads them.
MACHINES = 'PADDLE_NNODES'
ENDPOINTS = 'PADDLE_TRAINER_ENDPOINTS'
# The library of Paddle's collectives. dist.py sets it to gloo on a CPU, Paddle reads it.
BACKEND = 'PADDLE_DISTRI_BACKEND'
