"""What each task needs of a cluster, for two kinds of nodes; the local runner uses none of it."""

from collections.abc import Callable
from dataclasses import dataclass

from kfp import kubernetes
from kfp.dsl import PipelineTask

from components.images import Images

MLFLOW_TRACKING_URI = "http://mlflow.steelyard.svc.cluster.local:5000"
OBJECT_STORE_SECRET = "s3-credentials"  # manifests/README.md has the command that makes it
OBJECT_STORE_KEYS = ("AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
GPU_LABELS = {"nvidia.com/gpu.present": "true"}  # NVIDIA's GPU feature discovery sets it
ATTEMPTS = 2  # beyond the first, 30 s and then 60 s apart


@dataclass(frozen=True, slots=True, kw_only=True)
class Needs:
    """Requests, which are also the limits for memory. Those of cpu are small, so that one node of two cores will do;
    the limits let a task use an idle one.
    """

    cpu: str
    cpu_limit: str
    memory: str


NEEDS = {
    "prepare-data": Needs(cpu="500m", cpu_limit="2", memory="2Gi"),
    "evaluate-candidate": Needs(cpu="500m", cpu_limit="2", memory="2Gi"),
    "measure-latency": Needs(cpu="1", cpu_limit="1", memory="2Gi"),  # one core, as the hardware class says
    "recall-models": Needs(cpu="1", cpu_limit="1", memory="2Gi"),
    "select-model": Needs(cpu="500m", cpu_limit="1", memory="2Gi"),
    "register-model": Needs(cpu="500m", cpu_limit="1", memory="2Gi"),
    "deploy-model": Needs(cpu="100m", cpu_limit="500m", memory="1Gi"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """A kind of node for training."""

    training: Needs
    gpus: int = 0


CPU_NODES = Profile(training=Needs(cpu="500m", cpu_limit="4", memory="4Gi"))


def gpu_nodes(gpus: int) -> Profile:
    """Return the profile of nodes with GPUs, of which each training takes so many, with a process for each."""
    return Profile(training=Needs(cpu=f"{gpus}", cpu_limit=f"{8 * gpus}", memory=f"{8 * gpus}Gi"), gpus=gpus)


def on_nodes_of(profile: Profile | None, images: Images) -> Callable[[PipelineTask], PipelineTask]:
    """Return what tells a task where to run; for the local runner, which has no profile, it changes nothing."""

    def on_cluster(task: PipelineTask) -> PipelineTask:
        if profile:
            _apply(task, profile, images)
        return task

    return on_cluster


def _apply(task: PipelineTask, profile: Profile, images: Images) -> None:
    """Tell the cluster what a task needs.

    KFP's cache is off everywhere: it compares the addresses of artifacts, not their content, so that a changed data
    set under the same address would be missed. Trainings are remembered by content instead.
    """
    needs = NEEDS.get(task.name, profile.training)
    task.set_container_image(images.train if task.name == "train-candidate" else images.base)
    task.set_cpu_request(needs.cpu).set_cpu_limit(needs.cpu_limit)
    task.set_memory_request(needs.memory).set_memory_limit(needs.memory)
    task.set_retry(ATTEMPTS, backoff_duration="30s")
    task.set_caching_options(False)
    task.set_env_variable("MLFLOW_TRACKING_URI", MLFLOW_TRACKING_URI)
    for words in ("STEELYARD_ERROR_FILE", "STEELYARD_RESULT_FILE"):  # in a pod's status, for `submit --wait`
        task.set_env_variable(words, "/dev/termination-log")
    kubernetes.use_secret_as_env(task, OBJECT_STORE_SECRET, {key: key for key in OBJECT_STORE_KEYS})
    if task.name == "train-candidate":
        kubernetes.empty_dir_mount(task, volume_name="dshm", mount_path="/dev/shm", medium="Memory", size_limit="1Gi")
        if profile.gpus:
            task.set_accelerator_type("nvidia.com/gpu").set_accelerator_limit(profile.gpus)
            kubernetes.add_toleration(task, key="nvidia.com/gpu", operator="Exists", effect="NoSchedule")
            for label, value in GPU_LABELS.items():
                kubernetes.add_node_selector(task, label, value)
