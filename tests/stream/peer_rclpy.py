"""A real ROS 2 node for test_live.py: publishes two sensors, hears the beliefs, and prints what it came to, as JSON.

ROS_AUTOMATIC_DISCOVERY_RANGE=LOCALHOST PYTHON peer_rclpy.py COUNT HZ
"""

import json
import sys
import time

import numpy as np
import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from sensor_msgs.msg import Image, JointState
from std_msgs.msg import Float64MultiArray

COUNT, HZ = int(sys.argv[1]), float(sys.argv[2])


def read(array):
    """Take a MultiArray apart as its layout says; the stamp stands before the offset."""
    offset, dims = array.layout.data_offset, array.layout.dim
    return {
        "stamp": list(array.data[:offset]), "values": list(array.data[offset:]),
        "sizes": [d.size for d in dims], "strides": [d.stride for d in dims],
    }  # fmt: skip


def main():
    rclpy.init()
    node = rclpy.create_node("robot")
    heard, health = [], []
    node.create_subscription(Float64MultiArray, "/serket/motion", heard.append, 10)
    node.create_subscription(DiagnosticArray, "/serket/health", health.append, 10)
    camera, wheel = node.create_publisher(Image, "/camera/pose", 10), node.create_publisher(JointState, "/wheel", 10)

    def until(happened, seconds):
        end = time.monotonic() + seconds
        while not happened() and time.monotonic() < end:
            rclpy.spin_once(node, timeout_sec=0.005)

    until(lambda: camera.get_subscription_count() and wheel.get_subscription_count(), 30)
    until(lambda: node.count_publishers("/serket/motion"), 30)
    until(lambda: False, 1)
    begun, values = time.monotonic(), np.random.default_rng(0).normal(size=(COUNT, 4)).round(3)
    for k, (x, y, u, v) in enumerate(values.tolist()):
        stamp = node.get_clock().now().to_msg()
        image = Image(height=1, width=2, encoding="32FC1", step=8, data=np.array([x, y], "<f4").tobytes())
        joints = JointState(name=["u", "v"], position=[u, v])
        image.header.stamp = joints.header.stamp = stamp
        camera.publish(image)
        wheel.publish(joints)
        until(lambda due=begun + (k + 1) / HZ: time.monotonic() >= due, 1)
    until(lambda: False, 2)
    told = {"sent": values.tolist(), "heard": [read(one) for one in heard]}
    told["health"] = [(one.header.stamp.sec, one.header.stamp.nanosec) for one in health]
    print(json.dumps(told))
    rclpy.shutdown()


main()
