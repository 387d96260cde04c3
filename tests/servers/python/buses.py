"""What EventBridge refuses and Ministack's does not: to list the rules of a bus that is not there. And it forgets events that it
told of, as EventBridge does, where Ministack keeps them all.

It reaches into private functions, which is one more reason to pin the version.
"""

import collections

from ministack.core import responses
from ministack.services import eventbridge


def complete():
    lenient = eventbridge._list_rules

    def list_rules(request):
        name = request.get("EventBusName", "default")
        if name not in eventbridge._event_buses:
            return responses.error_response_json(
                "ResourceNotFoundException", f"Event bus {name} does not exist.", 400
            )
        return lenient(request)

    eventbridge._list_rules = list_rules
    latest = collections.deque(maxlen=1000)
    eventbridge._events_log_list = lambda: latest
