"""The guest's serial console for clients of Kubernetes' remotecommand protocols."""
