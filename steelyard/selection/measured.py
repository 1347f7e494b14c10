"""What a Scorecard says of a metric that a contract names."""

from steelyard.contract import Contract
from steelyard.errors import MetricNotMeasured
from steelyard.evaluation.bounds import measure_quality
from steelyard.evaluation.measurement import Measurement
from steelyard.evaluation.scorecard import Scorecard
from steelyard.evaluation.times import THROUGHPUT, TIMED, TooFewSamples, measure_time
from steelyard.metrics import metric
from steelyard.selection.utility import IMAGES_PER_DOLLAR, images_per_dollar


def measured(scorecard: Scorecard, name: str, contract: Contract) -> Measurement:
    """Return a metric on the validation split, or of the model itself.

    What was not measured unasked, such as `top_3_accuracy`, is measured now if the answers were kept.

    Raises:
        MetricNotMeasured: the scorecard has neither, or too few times for a bound, and then says how many it takes.
    """
    if name == IMAGES_PER_DOLLAR:
        return _per_dollar(measured(scorecard, THROUGHPUT, contract), contract)
    known = {**scorecard.index.validation, **scorecard.index.model}
    if name in known:
        return known[name]
    if metric(name).task == scorecard.index.task and (answers := scorecard.answered("validation")) is not None:
        return measure_quality(answers, scorecard.index.classes, [name])[name]
    if name in TIMED and scorecard.times:
        try:
            return measure_time(name, scorecard.times)
        except TooFewSamples as error:
            raise MetricNotMeasured(name, scorecard.candidate, known, why=str(error)) from None
    raise MetricNotMeasured(name, scorecard.candidate, known)


def _per_dollar(throughput: Measurement, contract: Contract) -> Measurement:
    value, bound = images_per_dollar([throughput.value, throughput.bound], contract).tolist()
    return Measurement(value=value, bound=bound, unit=metric(IMAGES_PER_DOLLAR).unit)
