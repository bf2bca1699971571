"""supervisor's files are read by supervisor as they are meant, whatever stands in paths."""

import configparser
from pathlib import Path

import pytest
from supervisor.options import ServerOptions

from trio_stt.fleet.folder import FleetError, Folder
from trio_stt.fleet.instances import instance_program, number_of
from trio_stt.fleet.supervisor import Program, main_file, program_file


def test_supervisor_takes_the_files_also_with_odd_paths(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "the fleet's")
    folder.make()
    folder.supervisor_configuration.write_text(main_file(folder, directory=str(tmp_path)))
    odd = Program("odd", ("/bin/echo", "50 %", "it's"), priority=5, stop_s=3)
    for program in (odd, instance_program(12, drain_s=10)):
        (folder.programs / f"{program.name}.conf").write_text(program_file(program, folder))
    options = ServerOptions()
    options.configfile = str(folder.supervisor_configuration)
    options.process_config(do_usage=False)
    found = {group.name: group.process_configs[0] for group in options.process_group_configs}
    assert found.keys() == {"odd", "instance-12"}
    assert found["odd"].command == "/bin/echo '50 %' 'it'\"'\"'s'"
    assert found["odd"].stdout_logfile == str(folder.logs / "odd.log")
    assert found["instance-12"].stopwaitsecs == 18
    assert found["instance-12"].autorestart is not False
    assert found["instance-12"].command.endswith("fleet instance 12")


@pytest.mark.parametrize("path", ["a;b", "50 %"])
def test_a_path_that_supervisor_would_misread_is_refused(tmp_path: Path, path: str) -> None:
    with pytest.raises(FleetError, match="choose a folder without"):
        main_file(Folder(tmp_path / path), directory="/")


def test_processes_of_instances_are_told_from_others() -> None:
    assert [number_of(name) for name in ("instance-7", "nginx", "instance-", "instance-x", "conductor")] == [
        7,
        None,
        None,
        None,
        None,
    ]


def test_the_files_are_plain_ini() -> None:
    parser = configparser.RawConfigParser()
    parser.read_string(program_file(instance_program(1, drain_s=1), Folder(Path("/fleet"))))
    assert parser["program:instance-1"]["autorestart"] == "true"
